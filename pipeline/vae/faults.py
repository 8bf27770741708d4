"""What is wrong with a family, found on a few random images before a search trains it.

The rest of the program relies on it: a training is repeated and resumed bit for bit, and an image
is measured alone or beside others alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.own_code import Fault, where
from pipeline.vae.cost import count_size
from pipeline.vae.families.layers import Shape
from pipeline.vae.left_alone import process_is_left_alone
from pipeline.vae.model import VAE, build, kl_per_dim, reparameterize
from pipeline.vae.setting import Architecture, read_architecture

IMAGES = 4
LR = 1e-4
NEAR = 1e-3  # sums in another order differ by less


def find_fault(record: Mapping[str, Any], shape: Shape) -> str | None:
    """The first fault of a family at one setting, given as the record of all hyperparameters.

    The model is built four times and takes two steps of training on random images. Neither the
    global generators nor the number of threads are touched.
    """
    family = str(record["family"])
    try:
        with torch.random.fork_rng(devices=[]), process_is_left_alone():
            _examine(read_architecture(record), shape)
    except (Fault, UserError) as fault:
        return str(fault)
    except (Exception, SystemExit) as error:
        return f"fails: {where(error, family)}"
    return None


def _examine(architecture: Architecture, shape: Shape) -> None:
    """Raises what is wrong."""
    width = _check_interface(architecture, shape)
    vae, twin = _new(architecture, shape), _new(architecture, shape)
    if not _same(vae.state_dict(), twin.state_dict()):
        raise Fault("draws other weights under the same seed: draw them by torch, where you build")
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(IMAGES, *shape, generator=generator) for _ in range(2)]
    latents = [torch.randn(IMAGES, vae.latent_dim, generator=generator) for _ in range(2)]
    wanted = (vae.likelihood.maps * shape[0], *shape[1:])
    with torch.no_grad():
        _check_calls("the encoder", vae.encoder.body, twin.encoder.body, images, (width,))
        _check_calls("the decoder", vae.decoder, twin.decoder, latents, wanted)
    _check_training(architecture, shape, images, latents)
    try:
        count_size(architecture, shape, most=0)
    except Exception as error:
        raise Fault(
            "cannot be counted on torch's device `meta`, where tensors have no values:"
            f" {type(error).__name__}: {' '.join(str(error).split())}"
        ) from None


def _check_interface(architecture: Architecture, shape: Shape) -> int:
    """The width of the encoder's features."""
    family = architecture.family
    pair: Any = family.encoder(shape)
    parts = pair if isinstance(pair, tuple) else ()
    if [isinstance(p, k) for p, k in zip(parts, (nn.Module, int), strict=False)] != [True, True]:
        raise Fault(f"encoder() must give a module and its width, but gives {_short(pair)}")
    decoder: Any = family.decoder(shape, 1, architecture.latent_dim)
    if not isinstance(decoder, nn.Module):
        raise Fault(f"decoder() must give a module, but gives {_short(decoder)}")
    width: int = pair[1]
    return width


def _short(value: object) -> str:
    return " ".join(f"{value!r:.80}".split())


def _new(architecture: Architecture, shape: Shape) -> VAE:
    return build(shape, architecture, 0).eval()


def _check_calls(
    name: str, half: nn.Module, twin: nn.Module, inputs: list[Tensor], shape: tuple[int, ...]
) -> None:
    """A half of a model as it measures: the same answer to the same image, whatever else it saw."""
    first, other = inputs
    given = first.clone()
    out = half(given)
    found = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
    if found != (IMAGES, *shape):
        raise Fault(f"{name} must give {(IMAGES, *shape)} for {IMAGES} images, but gives {found}")
    if not torch.equal(given, first):
        raise Fault(f"{name} changes its input in place")
    if not out.isfinite().all():
        raise Fault(f"{name} gives NaN or infinite numbers")
    if not torch.equal(twin(first.clone()), out):
        raise Fault(f"{name} is not deterministic: another answer to the same batch")
    half(other.clone())
    if not torch.equal(half(first.clone()), out):
        raise Fault(f"{name} keeps state between calls: another answer after another batch")
    alone = half(first[:1].clone())
    if not torch.allclose(alone, out[:1], rtol=NEAR, atol=NEAR * float(out.abs().max())):
        raise Fault(
            f"{name} depends on the batch when it measures: another answer to an image alone"
        )


def _check_training(
    architecture: Architecture, shape: Shape, images: list[Tensor], noise: list[Tensor]
) -> None:
    """Two steps, three times: at once; with other global random numbers; and from a checkpoint."""
    vae, again, resumed = (_new(architecture, shape).train() for _ in range(3))
    torch.default_generator.manual_seed(1)
    _step(vae, images[0], noise[0])
    weights = {name: value.clone() for name, value in vae.state_dict().items()}
    _step(vae, images[1], noise[1])
    torch.default_generator.manual_seed(2)
    for x, eps in zip(images, noise, strict=True):
        _step(again, x, eps)
    if not _same(vae.state_dict(), again.state_dict()):
        raise Fault(
            "is not deterministic in training: random numbers of its own, as dropout draws them,"
            " are not those of the trial's seed"
        )
    resumed.load_state_dict(weights)
    _step(resumed, images[1], noise[1])
    if not _same(vae.state_dict(), resumed.state_dict()) or not _same(
        _measured(vae, images[0]), _measured(resumed, images[0])
    ):
        raise Fault("keeps state between calls that no checkpoint has: make it a buffer")


@torch.no_grad()
def _measured(vae: VAE, x: Tensor) -> dict[str, Tensor]:
    """What it makes of images when it measures."""
    mu, log_var = vae.eval().encode(x.clone())
    return {"mu": mu, "log_var": log_var, "out": vae.decode(mu.clone())}


def _step(vae: VAE, x: Tensor, eps: Tensor) -> None:
    """By the gradient's sign: every weight moves, whatever its scale, and the step has no state."""
    given = x.clone()
    mu, log_var = vae.encode(given)
    out = vae.decode(reparameterize(mu, log_var, eps))
    if not torch.equal(given, x):
        raise Fault("the encoder changes its input in place")
    loss = (vae.likelihood.nll(out, x) + kl_per_dim(mu, log_var).sum(1)).mean()
    vae.zero_grad()
    loss.backward()
    for name, weight in vae.named_parameters():
        if weight.grad is None:
            raise Fault(f"{name} has no effect: it is never used")
        if not weight.grad.isfinite().all():
            raise Fault(f"{name} gets a gradient of NaN or infinite numbers")
    with torch.no_grad():
        for weight in vae.parameters():
            assert weight.grad is not None
            weight.sub_(LR * weight.grad.sign())


def _same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
