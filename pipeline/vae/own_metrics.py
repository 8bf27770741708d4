"""Figures of your own of a model on test images: functions in Python files that a space names."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.own_code import Fault, Sources, in_time, own_object, where
from pipeline.seeds import derive_seed
from pipeline.vae.left_alone import process_is_left_alone
from pipeline.vae.measure import BATCH, elbo, pixels, seen
from pipeline.vae.model import VAE, build
from pipeline.vae.setting import read_architecture

IMAGES, CLASSES = 64, 10  # random ones, on which a metric is tried

Figures = dict[str, Any]  # function: its number, or its numbers by name


@dataclass(frozen=True)
class Tested:
    """What a metric is called with: a model and what it makes of n images, as numpy's arrays."""

    images: np.ndarray  # float32 (n, C, H, W), from 0 to 1
    labels: np.ndarray  # int64 (n,), the places of their classes in manifest.json
    reconstructions: np.ndarray  # float32 (n, C, H, W): the mean images decoded from z = μ
    samples: np.ndarray  # float32 (n, C, H, W): the mean images of n draws of z from the prior
    mu: np.ndarray  # float32 (n, latent)
    log_var: np.ndarray  # float32 (n, latent): log σ²
    recon_nats: np.ndarray  # float64 (n,)
    kl_nats: np.ndarray  # float64 (n,); the NELBO is the sum of both
    model: VAE  # with encode and decode of tensors, in evaluation mode


def own_figures(names: Iterable[str], sources: Sources, tested: Tested) -> Figures:
    """The figures of each metric FILE.py:FUNCTION. Raises UserError with the first fault."""
    found: Figures = {}
    for name in names:
        found[name.rpartition(":")[2]] = _examined(name, sources, tested)
    return found


def metric_faults(
    names: Iterable[str], sources: Sources, record: Mapping[str, Any], shape: tuple[int, int, int]
) -> Iterator[str]:
    """A line for each metric that is faulty on random images (C, H, W) and a model without
    training, whose setting the record gives."""
    vae = build(shape, read_architecture(record), 0).eval()
    size, generator = (IMAGES, *shape), torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
    tested = made(vae, images, torch.arange(IMAGES) % CLASSES, 0)
    for name in names:
        try:
            with in_time(name):
                _examined(name, sources, tested)
        except UserError as error:
            yield str(error)
        except Fault as fault:
            yield f"{name}: {fault}"


@torch.inference_mode()
def made(vae: VAE, images: Tensor, labels: Tensor, seed: int) -> Tested:
    """What a model makes of uint8 images (n, C, H, W)."""
    parts = elbo(vae, images, seed)
    generator = torch.Generator().manual_seed(derive_seed(seed, "metrics"))
    mus, log_vars, decoded, drawn = [], [], [], []
    for x in seen(vae, images, seed):
        mu, log_var = vae.encode(x)
        z = torch.randn(mu.shape, generator=generator).to(mu.device)
        mus.append(mu)
        log_vars.append(log_var)
        decoded.append(vae.likelihood.mean(vae.decode(mu)))
        drawn.append(vae.likelihood.mean(vae.decode(z)))
    return Tested(
        images=_array([pixels(batch) for batch in images.split(BATCH)]),
        labels=_array([labels]),
        reconstructions=_array(decoded),
        samples=_array(drawn),
        mu=_array(mus),
        log_var=_array(log_vars),
        recon_nats=_array([parts.recon_nats]),
        kl_nats=_array([parts.kl_nats]),
        model=vae,
    )


def _array(parts: list[Tensor]) -> np.ndarray:
    found: np.ndarray = torch.cat(parts).cpu().numpy().copy()
    return found


def _examined(name: str, sources: Sources, tested: Tested) -> float | dict[str, float]:
    """What a metric says, which it is asked twice. Raises UserError."""
    try:
        with process_is_left_alone():
            function, given = own_object(name, sources), _digests(tested)
            first, again = (_called(name, function, tested) for _ in range(2))
            if changed := [key for key, digest in _digests(tested).items() if digest != given[key]]:
                raise Fault(f"changes its input `{changed[0]}` in place: copy it first")
            if first != again:
                raise Fault(
                    f"is not deterministic: {first} and then {again} of the same images: seed its"
                    " random numbers"
                )
            return first
    except Fault as fault:
        raise UserError(f"{name}: {fault}") from None


def _called(name: str, function: Any, tested: Tested) -> float | dict[str, float]:
    try:
        with torch.random.fork_rng(devices=[]):
            answer = function(tested)
        if isinstance(answer, Mapping):
            return {str(key): _number(value) for key, value in answer.items()}
        return _number(answer)
    except (Fault, UserError):
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"{name}: fails: {where(error, name)}: correct it") from error
    finally:
        tested.model.eval()


def _number(value: Any) -> float:
    if isinstance(value, np.ndarray | Tensor) and value.ndim == 0:
        value = value.item()
    if not isinstance(value, int | float | np.number) or isinstance(value, bool):
        shown = " ".join(f"{value!r:.80}".split())
        raise Fault(f"must give a number, or numbers by name, but gives {shown}: return those")
    if not math.isfinite(value):
        raise Fault(f"must give finite numbers, but gives {value}: leave out what has none")
    return float(value)


def _digests(tested: Tested) -> dict[str, str]:
    """What a metric could change of its input, by field."""
    arrays = {each.name: [getattr(tested, each.name)] for each in fields(Tested)}
    arrays["model"] = [each.cpu().numpy() for each in tested.model.state_dict().values()]
    return {
        name: hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts))
        .hexdigest()
        for name, parts in arrays.items()
    }  # fmt: skip
