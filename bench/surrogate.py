"""Landscapes to search on, drawn from recorded learning curves: settings to curves and costs.

`bench.landscape` says how they are made and what is compared on them.
"""

from __future__ import annotations

import csv
import json
import math
import random
import warnings
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.settings.hyperparameters import Value

COMPONENTS = 5
FEATURES = 512  # of the random Fourier features that draw a prior function
Array = NDArray[np.float64]


class Table:
    """The recorded curves, and the surrogate that was fitted to them."""

    def __init__(self, file: Path):
        with file.open() as lines:
            rows = list(csv.DictReader(lines))
        names = [n for n in rows[0] if n not in ("setting", "seed", "epoch", "nelbo_nats")]
        self.names = [name for name in names if name != "core_seconds_per_epoch"]
        curves: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
        settings: dict[str, dict[str, Value]] = {}
        seconds: dict[str, float] = {}
        for row in rows:
            curves[row["setting"], row["seed"]][int(row["epoch"])] = float(row["nelbo_nats"])
            settings.setdefault(row["setting"], {n: _value(row[n]) for n in self.names})
            seconds.setdefault(row["setting"], float(row["core_seconds_per_epoch"]))
        self.epochs = max(len(curve) for curve in curves.values())
        keys = [key for key in curves if key[1] == min(s for t, s in curves if t == key[0])]
        self.settings = [settings[setting] for setting, _ in keys]
        self.values = {n: sorted({json.dumps(s[n]) for s in self.settings}) for n in self.names}
        self.inputs = np.array([self.encode(setting) for setting in self.settings])
        raw = np.array([[curves[k][e + 1] for e in range(self.epochs)] for k in keys])
        ends = raw[:, -1]
        self._floor = ends.min() - (np.median(ends) - ends.min()) / 2  # below what can be reached
        logs = np.log(np.minimum(raw, 3 * np.median(raw[:, 0])) - self._floor)
        self.mean = logs.mean(axis=0)
        _, _, axes = np.linalg.svd(logs - self.mean, full_matrices=False)
        self.axes = axes[:COMPONENTS]
        scores = (logs - self.mean) @ self.axes.T
        self.scales = scores.std(axis=0)
        self.noise = self._seed_noise(curves)
        self.gps = [_Gp(self.inputs, column) for column in (scores / self.scales).T]
        self.cost = _Gp(self.inputs, np.log(np.array([seconds[s] for s, _ in keys])))

    def encode(self, setting: dict[str, Value]) -> list[float]:
        """A point of the unit cube: numbers by their (logarithmic) rank, the rest one-hot."""
        point: list[float] = []
        for name in self.names:
            known = [json.loads(text) for text in self.values[name]]
            if _is_numeric(known):
                logs = [math.log(v) for v in known]
                low, high = min(logs), max(logs)
                point.append((math.log(setting[name]) - low) / (high - low))
            else:
                text = json.dumps(setting[name])
                point += [0.7 * (text == each) for each in self.values[name]]
        return point

    def curve(self, scores: Array) -> Array:
        """(n, epochs) NELBOs in nats of (n, components) scores."""
        return np.asarray(self._floor + np.exp(self.mean + (scores * self.scales) @ self.axes))

    def _seed_noise(self, curves: dict[tuple[str, str], dict[int, float]]) -> Array:
        """The standard deviation between seeds in nats by epoch, a median over settings."""
        groups: dict[str, list[list[float]]] = defaultdict(list)
        for (setting, _), curve in curves.items():
            groups[setting].append([curve[e + 1] for e in range(self.epochs)])
        spreads = [np.std(group, axis=0, ddof=1) for group in groups.values() if len(group) > 1]
        return np.asarray(np.median(spreads, axis=0))


class _Gp:
    """A Gaussian process with a Matérn 5/2 kernel and a width for each input."""

    def __init__(self, inputs: Array, outputs: Array):
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

        self._mean = outputs.mean()
        widths = np.full(inputs.shape[1], 1.0)
        kernel = ConstantKernel(1.0) * Matern(widths, (0.1, 20.0), nu=2.5) + WhiteKernel(
            0.05, (1e-4, 1.0)
        )
        model = GaussianProcessRegressor(kernel, n_restarts_optimizer=0, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an input of no use gets the widest kernel
            model.fit(inputs, outputs - self._mean)
        self.inputs, self._outputs = inputs, outputs - self._mean
        fitted: Any = model.kernel_
        self.variance = float(fitted.k1.k1.constant_value)
        self.widths = np.asarray(fitted.k1.k2.length_scale)
        self.white = float(fitted.k2.noise_level)
        self._kernel = fitted.k1
        gram = self._kernel(inputs) + self.white * np.eye(len(inputs))
        self._solve = np.linalg.inv(gram)

    def mean(self, points: Array) -> Array:
        """The posterior mean at (n, d) points."""
        return np.asarray(
            self._mean + self._kernel(points, self.inputs) @ self._solve @ self._outputs
        )

    def prior(self, generator: np.random.Generator) -> Callable[[Array], Array]:
        """A function that knows no data, of random Fourier features."""
        shape = (FEATURES, len(self.widths))
        tails = generator.chisquare(5, size=(FEATURES, 1)) / 5  # Matérn 5/2: a t distribution
        omega = generator.standard_normal(shape) / np.sqrt(tails) / self.widths
        phase = generator.uniform(0, 2 * math.pi, FEATURES)
        weights = generator.standard_normal(FEATURES) * math.sqrt(2 * self.variance / FEATURES)

        return lambda points: np.asarray(np.cos(points @ omega.T + phase) @ weights)

    def draw(self, generator: np.random.Generator) -> Callable[[Array], Array]:
        """A function of the posterior (Matheron's rule; Wilson et al., arXiv 2002.09309)."""
        prior = self.prior(generator)
        errors = generator.standard_normal(len(self.inputs)) * math.sqrt(self.white)
        update = self._solve @ (self._outputs - prior(self.inputs) - errors)
        return lambda points: np.asarray(
            self._mean + prior(points) + self._kernel(points, self.inputs) @ update
        )


class Landscape:
    """A function from settings to curves and costs."""

    def __init__(self, table: Table, number: int):
        self._table, self.number = table, number
        generator = np.random.default_rng(number)
        self._functions = [gp.draw(generator) for gp in table.gps]
        self._cost = table.cost.draw(generator)
        self.epochs = table.epochs
        draw = random.Random(number)
        some = [self._draw(draw) for _ in range(4000)]
        curves = self.curves(some)
        self.best = float(curves[:, -1].min())
        self.mean_cost = float(np.mean([self.cost(s) for s in table.settings]))
        self.observations: list[dict[str, Value]] = []  # of elsewhere

    def curves(self, settings: list[dict[str, Value]]) -> Array:
        """(n, epochs) NELBOs in nats, without noise."""
        points = np.array([self._table.encode(s) for s in settings])
        scores = np.stack([function(points) for function in self._functions], axis=1)
        return self._table.curve(scores)

    def strange(self, settings: list[dict[str, Value]]) -> Array:
        """(n) values of a function as smooth as its first component, which it does not know."""
        points = np.array([self._table.encode(s) for s in settings])
        return self._table.gps[0].prior(np.random.default_rng([self.number, 1]))(points)

    def train(self, setting: dict[str, Value], seed: int) -> Array:
        """The curve of one training."""
        clean = self.curves([setting])[0]
        draw = np.random.default_rng([self.number, seed, 7])
        common, own = draw.standard_normal(), draw.standard_normal(self.epochs)
        noise = math.sqrt(0.7) * common + math.sqrt(0.3) * own
        return np.asarray(clean + noise * self._table.noise)

    def cost(self, setting: dict[str, Value]) -> float:
        """Core-seconds of an epoch."""
        return float(np.exp(self._cost(np.array([self._table.encode(setting)]))[0]))

    def guess(self, setting: dict[str, Value]) -> float:
        """What a formula would say of it: the mean that was fitted."""
        return float(np.exp(self._table.cost.mean(np.array([self._table.encode(setting)]))[0]))

    def _draw(self, draw: random.Random) -> dict[str, Value]:
        found = {}
        for name, texts in self._table.values.items():
            known = [json.loads(text) for text in texts]
            if _is_numeric(known):
                low, high = math.log(min(known)), math.log(max(known))
                found[name] = math.exp(draw.uniform(low, high))
            else:
                found[name] = draw.choice(known)
        return found


def _value(text: str) -> Value:
    if text in ("True", "False"):
        return text == "True"
    if text == "":
        return None
    try:
        return json.loads(text)
    except ValueError:
        return text


def _is_numeric(known: list[Value]) -> bool:
    return len(known) > 3 and all(isinstance(v, int | float) and v > 0 for v in known)
