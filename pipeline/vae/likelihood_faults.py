"""What is wrong with a likelihood, found on a few random images before a search trains with it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.own_code import Fault, Sources, in_time, own_object, where
from pipeline.vae.families.layers import Shape
from pipeline.vae.left_alone import process_is_left_alone
from pipeline.vae.likelihood import Likelihood

IMAGES, DRAWS = 4, 4096
NEAR = 1e-3  # sums in another order differ by less
ANSWERS = ("nll", "mean", "sample", "constant")  # that every likelihood defines
TOTAL = 0.01  # as far may probabilities be from 1 in sum
MEAN = 0.1  # as far may the mean of `constant` be from the image, which several of ours clip
ERRORS = 6  # standard errors
STEP = 1e-4  # of a difference quotient, in double precision
SMOOTH = 0.02  # relative: the quotient's own error


def likelihood_faults(name: str, sources: Sources, shape: Shape) -> Iterator[str]:
    """The first fault of FILE.py:CLASS for images (C, H, W), as a line, if it has one."""
    try:
        with in_time(name), torch.random.fork_rng(devices=[]), process_is_left_alone():
            examine(own_object(name, sources), shape)
    except UserError as error:
        yield str(error)
    except Fault as fault:
        yield f"{name}: {fault}"
    except (Exception, SystemExit) as error:
        yield f"{name}: fails: {where(error, name)}"


def examine(kind: Any, shape: Shape) -> None:
    """Raises what is wrong with a class of likelihoods."""
    if not isinstance(kind, type) or not issubclass(kind, Likelihood):
        raise Fault("must be a class of pipeline.vae.likelihood.Likelihood: derive it from that")
    if missing := [name for name in ANSWERS if getattr(kind, name) is getattr(Likelihood, name)]:
        raise Fault(f"has no method {missing[0]}: define it")
    likelihood, twin = kind().eval(), kind().eval()
    if not isinstance(likelihood.maps, int) or likelihood.maps < 1:
        raise Fault(f"maps must be a whole number from 1, but is {likelihood.maps!r}")
    if weights := [weight for weight, _ in likelihood.named_parameters()]:
        raise Fault(f"{weights[0]} is a parameter: what is trained belongs to the family")
    generator = torch.Generator().manual_seed(0)
    size = (IMAGES, likelihood.maps * shape[0], *shape[1:])
    out, x = torch.randn(size, generator=generator), _images(likelihood, shape, generator)
    _check_nll(likelihood, twin, out, x)
    _check_state(kind, out, x)
    _check_gradient(likelihood, out.double(), x.double(), generator)
    _check_images(likelihood, out, shape)
    _check_constant(likelihood, size[1:], 0.35 + 0.3 * torch.rand(shape, generator=generator))
    _check_total(likelihood, generator)


def _images(likelihood: Likelihood, shape: Shape, generator: torch.Generator) -> Tensor:
    levels = 2 if likelihood.binarizes else 256
    drawn = torch.randint(0, levels, (IMAGES, *shape), generator=generator)
    return drawn.float() / (levels - 1)


def _check_nll(likelihood: Likelihood, twin: Likelihood, out: Tensor, x: Tensor) -> None:
    given = out.clone(), x.clone()
    nll = likelihood.nll(out, x)
    _check("nll", nll, (IMAGES,))
    if not (torch.equal(out, given[0]) and torch.equal(x, given[1])):
        raise Fault("nll changes its input in place")
    if not torch.equal(likelihood.nll(out, x), nll) or not torch.equal(twin.nll(out, x), nll):
        raise Fault("nll is not deterministic: another answer to the same images")
    alone = likelihood.nll(out[:1], x[:1])
    if not torch.allclose(alone, nll[:1], rtol=NEAR, atol=NEAR * float(nll.abs().max())):
        raise Fault("nll depends on the batch when it measures: another answer to an image alone")


def _check_state(kind: type[Likelihood], out: Tensor, x: Tensor) -> None:
    """A training may be left in the midst of an epoch and after it, with its buffers alone."""
    likelihood = kind()
    for ended in (False, True):
        likelihood.train().nll(out, x)
        if ended:
            likelihood.end_epoch()
        resumed = kind()
        resumed.load_state_dict(likelihood.state_dict())
        found = []
        for each in (likelihood, resumed):
            trained = each.train().nll(out, x)
            each.end_epoch()
            found.append(torch.stack([trained, each.eval().nll(out, x)]))
        if not torch.equal(*found):
            raise Fault("keeps state between calls that no checkpoint has: make it a buffer")


def _check_gradient(
    likelihood: Likelihood, out: Tensor, x: Tensor, generator: torch.Generator
) -> None:
    """Along a random direction, against a difference quotient."""
    leaf = out.clone().requires_grad_()
    total = likelihood.nll(leaf, x).sum()
    if not total.requires_grad:
        raise Fault("nll has no gradient: compute it of `out` by torch alone")
    (slope,) = torch.autograd.grad(total, leaf)
    if not slope.isfinite().all():
        raise Fault("nll has a gradient of NaN or infinite numbers")
    direction = torch.randn(out.shape, generator=generator, dtype=out.dtype)
    direction /= direction.norm()
    ends = [likelihood.nll(out + sign * STEP * direction, x).sum() for sign in (1, -1)]
    found, due = float((slope * direction).sum()), float(ends[0] - ends[1]) / (2 * STEP)
    if not math.isclose(found, due, rel_tol=SMOOTH, abs_tol=SMOOTH * float(slope.norm())):
        raise Fault(f"nll has a gradient that is not its own: {found:.4g} where it is {due:.4g}")


def _check_images(likelihood: Likelihood, out: Tensor, shape: Shape) -> None:
    """Means and draws, and that the average of draws is the mean."""
    mean = likelihood.mean(out)
    _check("mean", mean, (IMAGES, *shape))

    def draw(outputs: Tensor, seed: int) -> Tensor:
        return likelihood.sample(outputs, torch.Generator().manual_seed(seed))

    first = draw(out, 0)
    _check("sample", first, (IMAGES, *shape))
    torch.default_generator.manual_seed(1)
    if not torch.equal(draw(out, 0), first):
        raise Fault("sample is not deterministic: draw from the generator that it is given")
    few = out[:1, :, :1, :1].repeat(DRAWS, 1, 1, 1)  # of one pixel
    draws, due = draw(few, 1).double(), likelihood.mean(few[:1]).double()
    error = ERRORS * draws.std(0) / math.sqrt(DRAWS) + 1 / 255  # half a grey level each
    if ((draws.mean(0) - due[0]).abs() > error).any():
        pair = f"{float(draws.mean()):.3g} and {float(due.mean()):.3g}"
        raise Fault(f"the average of samples is not the mean: {pair}")


def _check_constant(likelihood: Likelihood, size: tuple[int, ...], image: Tensor) -> None:
    out = likelihood.constant(image)
    _check("constant", out, (1, *size))
    if float((likelihood.mean(out)[0] - image).abs().max()) > MEAN:
        raise Fault("constant must give the output whose mean is the image, but it is another")


def _check_total(likelihood: Likelihood, generator: torch.Generator) -> None:
    """That the probabilities of a pixel sum to 1, or its density integrates to it."""
    if likelihood.support is None:
        return
    if likelihood.support not in _VALUES:
        raise Fault(f"support must be {', '.join(_VALUES)} or None, not {likelihood.support!r}")
    values, width = _VALUES[likelihood.support]()
    for _ in range(IMAGES):
        out = torch.randn((1, likelihood.maps, 1, 1), generator=generator, dtype=torch.float64)
        nll = likelihood.nll(out.expand(len(values), -1, -1, -1), values[:, None, None, None])
        total = float(torch.exp(-nll).sum() * width)
        if abs(total - 1) > TOTAL:
            what = "sum" if width == 1 else "integrate"
            raise Fault(
                f"its probabilities {what} to {total:.4g} over {likelihood.support}, not to 1"
            )


def _grid(low: float, high: float) -> tuple[Tensor, float]:
    """Midpoints of 40 000 cells."""
    width = (high - low) / 40_000
    return low + width * (torch.arange(40_000, dtype=torch.float64) + 0.5), width


_VALUES = {
    "levels": lambda: (torch.arange(256, dtype=torch.float64) / 255, 1.0),
    "binary": lambda: (torch.arange(2, dtype=torch.float64), 1.0),
    "unit": lambda: _grid(0, 1),
    "real": lambda: _grid(-50, 50),
}


def _check(name: str, found: Any, shape: tuple[int, ...]) -> None:
    got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
    if got != shape:
        raise Fault(f"{name} must give {shape}, but gives {got}")
    if not found.isfinite().all():
        raise Fault(f"{name} gives NaN or infinite numbers")
