"""One training: interruptible between any two steps, and bit for bit the same however often.

A training is a pure function of (images, setting, seed, epochs): shuffles and noise are drawn from
(seed, epoch), so that weights, moments and how far it has come are all that is needed to go on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pipeline.seeds import derive_seed
from pipeline.vae.average import STRIDE, WeightAverage
from pipeline.vae.early_stopping import Course
from pipeline.vae.families.mlp import Mlp
from pipeline.vae.measure import elbo, mean_image
from pipeline.vae.model import VAE, build, center
from pipeline.vae.optimizer import Optimizer
from pipeline.vae.schedule import kl_weight, lr_factor
from pipeline.vae.setting import Setting
from pipeline.vae.steps import Capture, EagerSteps, GraphedSteps, Step, Steps, capture

VALIDATION_SEED = 0  # the same noise for every trial and epoch: differences are the models' own


Leaves = Callable[[], bool]  # whether to leave an epoch, asked after a step


class Diverged(Exception):
    """The loss is no longer finite."""


class Training:
    """The training of one VAE.

    `records` holds one dict an epoch: epoch, the validation nelbo_nats = recon_nats + kl_nats, the
    same of the training images (train_*), lr, active_units, kl_per_dim, mu_std, log_var_mean.
    """

    def __init__(
        self,
        train: Tensor,
        validation: Tensor,
        setting: Setting,
        seed: int,
        epochs: int,
        device: torch.device | str = "cpu",
    ):
        """Images are uint8 (n, C, H, W) on `device`."""
        self.setting = setting
        self.epochs = epochs
        self.seed = seed
        self.device = torch.device(device)
        self._train, self._validation = train, validation
        shape = (train.shape[1], train.shape[2], train.shape[3])
        self.vae = build(shape, setting.architecture, derive_seed(seed, "weights")).to(self.device)
        if setting.centered and isinstance(setting.architecture.family, Mlp):
            center(self.vae, mean_image(train))
        self.optimizer = Optimizer(self.vae.parameters(), setting)
        self.lr = 0.0  # of the last step
        self._step = Step(self.vae, self.optimizer, train, setting.precision == "bf16")
        self._steps = self._new_steps()
        exponent = setting.averaging
        self.average = None if exponent is None else WeightAverage(self.vae, exponent)
        self.records: list[dict[str, Any]] = []
        self.taken = 0  # steps of an epoch that is not at its end
        self.spent = (0.0, 0.0)  # seconds and core-seconds in it, kept for who counts them
        self._begun = False  # that epoch, by this object
        self._left: dict[str, Tensor] = {}  # what it was at when it was left
        self.course = Course(setting, epochs)
        self.best_weights: dict[str, Tensor] = {}
        self.first_weights: dict[str, Tensor] = {}

    @property
    def model(self) -> VAE:
        """What is measured and kept: the average of the weights, if there is one."""
        return self.average.vae if self.average else self.vae

    @property
    def finished(self) -> bool:
        """Whether the budget is spent or early stopping has struck."""
        return self.course.over

    @property
    def steps(self) -> int:
        """How many steps the optimizer has taken."""
        return len(self.records) * math.ceil(len(self._train) / self.setting.batch_size)

    @property
    def kept_epoch(self) -> int:
        """The epoch (from 1) whose weights are the training's result."""
        return self.course.kept

    def kept_weights(self) -> dict[str, Tensor]:
        """The weights after `kept_epoch`."""
        if self.kept_epoch == len(self.records):
            return self.model.state_dict()
        return self.best_weights

    def run_epoch(self, leaves: Leaves = lambda: False) -> dict[str, Any] | None:
        """Trains one epoch, measures, and returns its record. Raises Diverged.

        None: it `leaves` the epoch, asked after a step; the next call goes on with the next one.
        """
        epoch = len(self.records) + 1
        sums = self._train_epoch(epoch, leaves)
        if sums is None:
            return None
        recon, kl = (sums / len(self._train)).tolist()  # the only wait for the device in an epoch
        if not math.isfinite(recon + kl):
            raise Diverged(f"the training loss is not finite in epoch {epoch}")
        measured = elbo(self.model, self._validation, VALIDATION_SEED)
        record = {
            "epoch": epoch,
            **measured.summary(),
            "train_nelbo_nats": recon + kl,
            "train_recon_nats": recon,
            "train_kl_nats": kl,
            "lr": self.lr,
            "active_units": measured.active_units,
            "kl_per_dim": [round(v, 4) for v in measured.kl_per_dim.tolist()],
            "mu_std": measured.mu_std,
            "log_var_mean": measured.log_var_mean,
        }
        if not math.isfinite(record["nelbo_nats"]):
            raise Diverged(f"the validation NELBO is not finite in epoch {epoch}")
        if epoch == 1:
            self.first_weights = _copy(self.model.state_dict())
        if self.course.observe(record):
            self.best_weights = _copy(self.model.state_dict())
        self.records.append(record)
        return record

    def state_within_epoch(self) -> dict[str, Tensor]:
        """What an epoch that was left needs to go on, for a checkpoint."""
        return self._steps.state() if self.taken else {}

    def restore_within_epoch(self, taken: int, state: dict[str, Tensor]) -> None:
        self.taken, self._begun, self._left = taken, False, state

    def _train_epoch(self, epoch: int, leaves: Leaves) -> Tensor | None:
        """One pass over the training images; the (2,) sums of recon and KL in nats, float64."""
        self.vae.train()
        batch = self.setting.batch_size
        steps = math.ceil(len(self._train) / batch)
        first, total = (epoch - 1) * steps, steps * self.epochs
        peak = self.setting.lr * self.course.plateau.factor
        lrs = [peak * lr_factor(self.setting, first + n, total) for n in range(steps)]
        weights = [kl_weight(self.setting, first + n, total, steps) for n in range(steps)]
        if not self._begun:
            self._steps.begin(derive_seed(self.seed, "epoch", epoch), lrs, weights)
            if self.taken:
                self._steps.restore(self.taken, self._left)
            self._begun = True
        for n in range(self.taken, steps):
            self._steps.take(n)
            if self.average and ((n + 1) % STRIDE == 0 or n + 1 == steps):
                self.average.update((epoch - 1) * math.ceil(steps / STRIDE) + n // STRIDE + 1)
            if n + 1 < steps and leaves():
                self.taken = n + 1
                return None
        self.taken, self._begun = 0, False
        self.vae.likelihood.end_epoch()
        if self.average:
            self.average.end_epoch()
        self.lr = lrs[-1]
        return self._steps.sums

    def _new_steps(self) -> Steps:
        """CUDA graphs where there are any and the optimizer's rule is fused."""
        if self.device.type == "cuda" and self.optimizer.fused:
            return self._graphed_steps(capture)
        return EagerSteps(self._step, self.setting.batch_size)

    def _graphed_steps(self, capture: Capture) -> GraphedSteps:
        moments = (tensor for values in self.optimizer.state.values() for tensor in values)
        state = [*self.vae.state_dict().values(), *moments]
        batch_size = self.setting.batch_size
        return GraphedSteps(self._step, len(self._train), batch_size, state, capture)


def _copy(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in weights.items()}
