"""p(x|z): what the decoder's raw output says about an image, one module per likelihood.

Shapes everywhere: images `x` (batch, C, H, W) in [0, 1]; decoder outputs `out`
(batch, maps*C, H, W), unbounded. Outputs in half precision (autocast) are lifted to float32
before anything is computed from them.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.vae import continuous_bernoulli
from pipeline.vae.continuous_bernoulli import MAX_LOGIT

MEAN_CLIP = 1e-4  # a Bernoulli constant never says "never": logit(0) is infinite
MIN_SIGMA2 = (1 / 255) ** 2 / 12  # variance of the rounding error of 8-bit pixels
GREY = 1 / 255  # width of a grey level
LOG_SCALE_START, LOG_SCALE_MIN, LOG_SCALE_MAX = -1.5, -8.0, 5.0


class Likelihood(nn.Module):
    """Interface of all likelihoods. `out` is what the decoder emits, never squashed before."""

    maps = 1  # decoder output channels per image channel
    binarizes = False  # whether encoder and nll are to see x = (u < grey), u uniform
    # Of what values of a pixel exp(-nll) is a probability (`levels`, 256 of them, or `binary`) or a
    # density (`unit` from 0 to 1, or `real`); None: neither. An examination holds it to that.
    support: str | None = None

    def nll(self, out: Tensor, x: Tensor) -> Tensor:
        """−log p(x|z), (batch,), in nats, summed over channels and pixels."""
        raise NotImplementedError

    def mean(self, out: Tensor) -> Tensor:
        """E[x|z], (batch, C, H, W), in data units."""
        raise NotImplementedError

    def sample(self, out: Tensor, generator: torch.Generator) -> Tensor:
        """A draw from p(x|z), (batch, C, H, W); the generator lives on the device of `out`."""
        raise NotImplementedError

    def constant(self, mean_image: Tensor) -> Tensor:
        """The output (1, maps*C, H, W) that predicts the train-mean image (C, H, W) for any z.

        A model that is worse than this constant is broken. `expand` it to the batch for `nll`.
        """
        raise NotImplementedError

    def end_epoch(self) -> None:
        """Call after each training epoch: a likelihood with running statistics settles them."""


def build_likelihood(
    name: str | type[Likelihood], sigma: float | Literal["optimal"] | None = None
) -> Likelihood:
    """The likelihood called `name`, or one of a class of one's own; `sigma` is for gaussian alone
    (default √½).

    Raises KeyError for an unknown name, ValueError for a sigma that the likelihood has not.
    """
    if name == "gaussian":
        if sigma == "optimal":
            return OptimalGaussian()
        return Gaussian(math.sqrt(0.5) if sigma is None else sigma)
    if sigma is not None:
        raise ValueError(f"`sigma` belongs to gaussian, but the likelihood is {name}")
    return _WITHOUT_SIGMA[name]() if isinstance(name, str) else name()


class Bernoulli(Likelihood):
    """Binary cross-entropy; `out` holds logits. On grey pixels this is not a density.

    Kingma & Welling, arXiv 1312.6114, appendix C.1.
    """

    def nll(self, out: Tensor, x: Tensor) -> Tensor:
        return _sum_pixels(_cross_entropy(at_least_float32(out), x))

    def mean(self, out: Tensor) -> Tensor:
        return torch.sigmoid(at_least_float32(out))

    def sample(self, out: Tensor, generator: torch.Generator) -> Tensor:
        mean = self.mean(out)
        return (_uniform(mean, generator) < mean).to(mean.dtype)

    def constant(self, mean_image: Tensor) -> Tensor:
        """The mean is clipped to [1e-4, 1 − 1e-4]."""
        return torch.logit(mean_image[None], eps=MEAN_CLIP)


class Binarized(Bernoulli):
    """Bernoulli on pixels drawn anew as x = (u < grey) each time they are seen; a true NLL."""

    binarizes = True
    support = "binary"


class ContinuousBernoulli(Likelihood):
    """Density C(λ) λ^x (1−λ)^(1−x) on [0, 1]; `out` holds the logits l of λ.

    Loaiza-Ganem & Cunningham, arXiv 1907.06845. In logits C = l / tanh(l/2). Exact 0/1 pixels
    would make the density unbounded, so C is taken at l clamped to ±16: up to there it is exact,
    beyond it is a lower bound (the NLL stays finite and an upper bound, and a saturated wrong
    pixel still gets a gradient).
    """

    support = "unit"

    def nll(self, out: Tensor, x: Tensor) -> Tensor:
        logits = at_least_float32(out)
        log_normalizer = continuous_bernoulli.log_normalizer(logits)
        return _sum_pixels(_cross_entropy(logits, x) - log_normalizer)

    def mean(self, out: Tensor) -> Tensor:
        """The mean of the density, which is not λ: 1/(1 − e^−l) − 1/l, l clamped to ±16."""
        return continuous_bernoulli.mean(at_least_float32(out))

    def sample(self, out: Tensor, generator: torch.Generator) -> Tensor:
        """By the inverse distribution function, of the mirrored density where l > 0."""
        logits = at_least_float32(out).clamp(-MAX_LOGIT, MAX_LOGIT)
        uniform = _uniform(logits, generator)
        falling = -logits.abs().clamp_min(1e-4)  # flatter than this is uniform
        dark = torch.log1p(uniform * torch.expm1(falling)) / falling
        return torch.where(logits > 0, 1 - dark, dark).clamp(0, 1)

    def constant(self, mean_image: Tensor) -> Tensor:
        """The logits whose mean is the image, by bisection on [−16, 16] (also the ML fit)."""
        target = mean_image[None].double()
        low, high = torch.full_like(target, -MAX_LOGIT), torch.full_like(target, MAX_LOGIT)
        for _ in range(50):
            middle = (low + high) / 2
            below = self.mean(middle) < target
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return ((low + high) / 2).to(mean_image.dtype)


class _Located(Likelihood):
    """A density whose mean is `out` itself."""

    support = "real"

    def mean(self, out: Tensor) -> Tensor:
        return at_least_float32(out)

    def constant(self, mean_image: Tensor) -> Tensor:
        return mean_image[None]


class Gaussian(_Located):
    """N(out, σ²) in every pixel, σ fixed: squared error / 2σ² + ½ C·H·W log 2πσ².

    σ² = ½ gives the plain squared error. `out` is the mean itself.
    """

    def __init__(self, sigma: float) -> None:
        super().__init__()
        self.sigma = sigma

    def nll(self, out: Tensor, x: Tensor) -> Tensor:
        constant = 0.5 * x[0].numel() * math.log(2 * math.pi * self.sigma**2)
        return _squared_error(out, x) / (2 * self.sigma**2) + constant

    def sample(self, out: Tensor, generator: torch.Generator) -> Tensor:
        mean = self.mean(out)
        return mean + self.sigma * _normal(mean, generator)


class OptimalGaussian(_Located):
    """N(out, σ²) with one shared σ² at its optimum, the mean squared error (σ-VAE, 2006.13202).

    In train mode `nll` takes σ² from its own batch, differentiably, so that the batch's sum is
    N/2 (log 2πσ² + 1) over its N pixels, and adds the squared errors to the epoch's sums.
    `end_epoch` makes the epoch's mean squared error the buffer `sigma2`, which `nll` (and
    `sample`) use in eval mode. σ² never falls below the rounding error of 8-bit pixels.

    The train-mean image gets its own optimal σ² if a fresh instance sees the training images
    once in train mode, then `end_epoch()` and `eval()`.
    """

    sigma2: Tensor  # (), the last epoch's mean squared error
    squared_error: Tensor  # (), this epoch's sum
    pixels: Tensor  # (), this epoch's count

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("sigma2", torch.tensor(0.5))
        self.register_buffer("squared_error", torch.zeros((), dtype=torch.float64))
        self.register_buffer("pixels", torch.zeros((), dtype=torch.float64))

    def nll(self, out: Tensor, x: Tensor) -> Tensor:
        squared_error = _squared_error(out, x)
        sigma2 = self.sigma2
        if self.training:
            self._add(squared_error.detach(), x.numel())
            sigma2 = (squared_error.sum() / x.numel()).clamp_min(MIN_SIGMA2)
        return squared_error / (2 * sigma2) + 0.5 * x[0].numel() * torch.log(2 * math.pi * sigma2)

    def sample(self, out: Tensor, generator: torch.Generator) -> Tensor:
        mean = self.mean(out)
        return mean + self.sigma2.sqrt() * _normal(mean, generator)

    @torch.no_grad()
    def end_epoch(self) -> None:
        mse = (self.squared_error / self.pixels).clamp_min(MIN_SIGMA2).to(self.sigma2.dtype)
        self.sigma2.copy_(torch.where(self.pixels > 0, mse, self.sigma2))
        self.squared_error.zero_()
        self.pixels.zero_()

    def _add(self, squared_error: Tensor, pixels: int) -> None:
        self.squared_error.add_(squared_error.sum(dtype=torch.float64))
        self.pixels.add_(pixels)


class Laplace(_Located):
    """Laplace density of scale 1 around `out`: absolute error + C·H·W log 2."""

    def nll(self, out: Tensor, x: Tensor) -> Tensor:
        error = (at_least_float32(out) - x).abs()
        return _sum_pixels(error) + x[0].numel() * math.log(2)

    def sample(self, out: Tensor, generator: torch.Generator) -> Tensor:
        mean = self.mean(out)
        centred = _uniform(mean, generator) - 0.5  # [−½, ½)
        magnitude = -torch.log1p(-2 * centred.abs().clamp_max(0.5 - 2**-25))
        return mean + torch.sign(centred) * magnitude


class DiscretizedLogistic(Likelihood):
    """Probabilities of the 256 grey levels v: σ((v+½−m)/s) − σ((v−½−m)/s), open tails.

    Kingma et al., arXiv 1606.04934, appendix; PixelCNN++, arXiv 1701.05517. `out` holds C maps
    of m, then C maps of log s, in data units: m = ½ + out/4 (the slope of a sigmoid at 0) and
    log s = −1.5 + out clamped to [−8, 5], so that a zero output spreads over all grey levels.
    `x` holds v/255. This is a true NLL of 8-bit pixels.
    """

    maps = 2
    support = "levels"

    def nll(self, out: Tensor, x: Tensor) -> Tensor:
        m, log_s = self._location_and_scale(out)
        inverse_s = torch.exp(-log_s)
        centred, half = (x - m) * inverse_s, (GREY / 2) * inverse_s
        # σ(a) − σ(b) = σ(a) σ(−b) (1 − e^(b−a)): three factors of which none underflows.
        below_upper = F.logsigmoid(centred + half)
        above_lower = F.logsigmoid(half - centred)
        inside = torch.log(-torch.expm1(-2 * half))
        # Masks as factors: `where` and `masked_fill` take five times as long on the CPU.
        not_dark, not_bright = (x > GREY / 2).to(x.dtype), (x < 1 - GREY / 2).to(x.dtype)
        log_prob = below_upper * not_bright + above_lower * not_dark
        return -_sum_pixels(log_prob + inside * (not_dark * not_bright))

    def mean(self, out: Tensor) -> Tensor:
        """Mean of the logistic with its tails folded onto 0 and 1.

        ∫₀¹ σ((m−t)/s) dt = s (softplus(m/s) − softplus((m−1)/s)), of which the mean of the grey
        levels is the midpoint rule with 255 points; they differ by less than half a grey level.
        """
        m, log_s = self._location_and_scale(out)
        s = log_s.exp()
        return s * (F.softplus(m / s) - F.softplus((m - 1) / s))

    def sample(self, out: Tensor, generator: torch.Generator) -> Tensor:
        m, log_s = self._location_and_scale(out)
        draw = m + log_s.exp() * torch.logit(_uniform(m, generator), eps=2**-24)
        return (draw * 255).round().clamp(0, 255) / 255

    def constant(self, mean_image: Tensor) -> Tensor:
        """m is the mean image; all pixels share one s.

        The spread around an unknown pixel's mean μ is at most μ(1−μ); its average over the image
        is taken as the variance (πs)²/3.
        """
        m = mean_image[None]
        variance = (m * (1 - m)).mean()
        log_s = torch.log((3 * variance).sqrt() / math.pi).clamp_min(LOG_SCALE_MIN)
        return torch.cat([(m - 0.5) * 4, (log_s - LOG_SCALE_START).expand_as(m)], dim=1)

    def _location_and_scale(self, out: Tensor) -> tuple[Tensor, Tensor]:
        """m and log s, each (batch, C, H, W)."""
        location, log_scale = at_least_float32(out).chunk(2, dim=1)
        log_s = F.hardtanh(log_scale + LOG_SCALE_START, LOG_SCALE_MIN, LOG_SCALE_MAX)
        return 0.5 + location / 4, log_s


_WITHOUT_SIGMA: dict[str, type[Likelihood]] = {
    "bernoulli": Bernoulli,
    "binarized": Binarized,
    "laplace": Laplace,
    "continuous_bernoulli": ContinuousBernoulli,
    "discretized_logistic": DiscretizedLogistic,
}


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor itself, or as float32 if it has half precision."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def _cross_entropy(logits: Tensor, x: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, x, reduction="none")


def _squared_error(out: Tensor, x: Tensor) -> Tensor:
    return _sum_pixels((at_least_float32(out) - x).square())


def _sum_pixels(values: Tensor) -> Tensor:
    return values.sum((1, 2, 3))  # (batch,)


def _uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(like.shape, generator=generator, device=like.device, dtype=like.dtype)


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, device=like.device, dtype=like.dtype)
