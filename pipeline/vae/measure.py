"""What a model is worth: NELBO and its parts, importance-weighted bound, errors, active units.

All figures are nats per image, summed over pixels and latent dimensions, always at β = 1. Sums run
over the whole split and are divided once. Images are uint8 (n, C, H, W).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.seeds import derive_seed
from pipeline.vae.model import VAE, kl_per_dim, reparameterize

BATCH = 1000
ACTIVE_VARIANCE = 0.01


@dataclass(frozen=True)
class Elbo:
    """Per-image parts of the NELBO over a split of n images, and what the posterior does."""

    recon_nats: Tensor  # (n,) float64
    kl_nats: Tensor  # (n,) float64
    kl_per_dim: Tensor  # (latent,) mean over images
    mean_variance: Tensor  # (latent,) Var_x(E_q[z_j])
    mu_std: float  # over images and dimensions
    log_var_mean: float

    @property
    def nelbo_nats(self) -> Tensor:
        return self.recon_nats + self.kl_nats

    @property
    def active_units(self) -> int:
        """#{j: Var_x(E_q[z_j]) > 0.01} (Burda et al., arXiv 1509.00519)."""
        return int((self.mean_variance > ACTIVE_VARIANCE).sum())

    def summary(self) -> dict[str, float]:
        """The means over the split; nelbo_nats is the sum of its parts."""
        recon, kl = float(self.recon_nats.mean()), float(self.kl_nats.mean())
        return {"nelbo_nats": recon + kl, "recon_nats": recon, "kl_nats": kl}


def pixels(images: Tensor) -> Tensor:
    """uint8 (n, C, H, W) as float32 in [0, 1]."""
    return images.to(torch.float32).div_(255)


def binarize(x: Tensor, generator: torch.Generator) -> Tensor:
    """A draw of binary images whose pixels have the probabilities x."""
    uniform = torch.rand(x.shape, generator=generator, device=generator.device)
    return (uniform.to(x.device) < x).to(x.dtype)


def mean_image(images: Tensor) -> Tensor:
    """The mean of the images in [0, 1], float32 (C, H, W); the same on every device."""
    total = torch.zeros(images.shape[1:], dtype=torch.float64, device=images.device)
    for batch in images.split(BATCH):
        total += batch.double().sum(0)  # of integers: exact
    return (total / (255 * len(images))).float()


def seen(vae: VAE, images: Tensor, seed: int) -> Iterator[Tensor]:
    """The split in batches as the model sees it: fixed binarization where it binarizes."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "binarize"))
    for batch in images.split(BATCH):
        x = pixels(batch)
        yield binarize(x, generator) if vae.likelihood.binarizes else x


@torch.inference_mode()
def elbo(vae: VAE, images: Tensor, seed: int, samples: int = 1) -> Elbo:
    """The NELBO with `samples` draws of z an image: analytic KL, sampled reconstruction."""
    vae.eval()
    generator = torch.Generator().manual_seed(derive_seed(seed, "elbo"))
    recon, kl, dims, mus = [], [], [], []
    log_var_sum = torch.zeros((), dtype=torch.float64, device=images.device)
    for x in seen(vae, images, seed):
        mu, log_var = vae.encode(x)  # (batch, latent)
        total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for _ in range(samples):
            eps = torch.randn(mu.shape, generator=generator).to(mu.device)
            total += vae.likelihood.nll(vae.decode(reparameterize(mu, log_var, eps)), x)
        parts = kl_per_dim(mu, log_var).double()
        recon.append(total / samples)
        kl.append(parts.sum(1))
        dims.append(parts.sum(0))
        mus.append(mu.double())
        log_var_sum += log_var.double().sum()
    mu = torch.cat(mus)
    return Elbo(
        recon_nats=torch.cat(recon),
        kl_nats=torch.cat(kl),
        kl_per_dim=torch.stack(dims).sum(0) / len(mu),
        mean_variance=mu.var(0, unbiased=False),
        mu_std=float(mu.std(unbiased=False)),
        log_var_mean=float(log_var_sum) / mu.numel(),
    )


@torch.inference_mode()
def iw_nll(vae: VAE, images: Tensor, seed: int, samples: int) -> Tensor:
    """−log (1/K) Σ p(x, z_k) / q(z_k | x) per image, (n,) (Burda et al., arXiv 1509.00519)."""
    vae.eval()
    generator = torch.Generator().manual_seed(derive_seed(seed, "iw"))
    nlls = []
    for x in seen(vae, images, seed):
        mu, log_var = vae.encode(x)
        log_sum = torch.full((len(x),), -math.inf, dtype=torch.float64, device=x.device)
        for _ in range(samples):
            eps = torch.randn(mu.shape, generator=generator).to(mu.device)
            z = reparameterize(mu, log_var, eps)
            # log p(z) − log q(z|x); the constants of the two normals cancel
            ratio = 0.5 * (eps.square() + log_var - z.square()).sum(1)
            log_weight = ratio - vae.likelihood.nll(vae.decode(z), x)
            log_sum = torch.logaddexp(log_sum, log_weight.double())
        nlls.append(math.log(samples) - log_sum)
    return torch.cat(nlls)


@torch.inference_mode()
def reconstruction_errors(vae: VAE, images: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Squared and absolute error of the mean image decoded from z = μ, per image and pixel.

    The error is against the grey image, also of a model that sees its pixels binarized: E[x|z]
    is a grey image too, and baselines are measured so.
    """
    vae.eval()
    squared, absolute = [], []
    for x, batch in zip(seen(vae, images, seed), images.split(BATCH), strict=True):
        decoded = vae.likelihood.mean(vae.decode(vae.encode(x)[0]))
        difference = (decoded - pixels(batch)).flatten(1).double()
        squared.append(difference.square().mean(1))
        absolute.append(difference.abs().mean(1))
    return torch.cat(squared), torch.cat(absolute)


@torch.inference_mode()
def posterior_means(vae: VAE, images: Tensor, seed: int) -> Tensor:
    """μ of every image, (n, latent)."""
    vae.eval()
    return torch.cat([vae.encode(x)[0] for x in seen(vae, images, seed)])


@torch.inference_mode()
def mean_image_nelbo(vae: VAE, train: Tensor, images: Tensor, seed: int) -> float:
    """The NELBO of a decoder that predicts the train-mean image whatever it sees (KL = 0).

    A model that is worse has diverged, collapsed or squashed its output twice.
    """
    vae.eval()
    likelihood = copy.deepcopy(vae.likelihood).train()  # an optimal σ is to be this decoder's own
    out = likelihood.constant(mean_image(train))
    for x in seen(vae, train, seed):
        likelihood.nll(out.expand(len(x), -1, -1, -1), x)
    likelihood.end_epoch()
    likelihood.eval()
    nlls = [likelihood.nll(out.expand(len(x), -1, -1, -1), x) for x in seen(vae, images, seed)]
    return float(torch.cat(nlls).double().mean())
