"""Batched passes through a trained VAE: images to latents, latents to images, as numpy arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.vae import measure

if TYPE_CHECKING:
    from pipeline.vae.model import VAE

Array = NDArray[Any]

MOST = 2000  # images that tell how a NELBO spreads
BATCH = 256  # images a pass: bounds the memory of a wide convolution


@dataclass(frozen=True)
class Posterior:
    """q(z|x) = N(mu, diag exp(log_var)) of some images; both arrays are (images, latent)."""

    mu: Array
    log_var: Array

    def activity(self) -> Array:
        """Var_x(E_q[z_j]) of every dimension (Burda et al., 1509.00519), (latent,)."""
        variance: Array = self.mu.var(axis=0)
        return variance

    def kl(self) -> Array:
        """KL(q(z_j|x) || p(z_j)) averaged over the images in nats, (latent,)."""
        mu, log_var = self.mu.astype(np.float64), self.log_var.astype(np.float64)
        nats: Array = 0.5 * (mu**2 + np.exp(log_var) - log_var - 1).mean(axis=0)
        return nats

    def sample(self, index: int, count: int, noise: np.random.Generator) -> Array:
        """Draws from the posterior of one image, (count, latent)."""
        epsilon = noise.standard_normal((count, self.mu.shape[1]), dtype=np.float32)
        drawn: Array = self.mu[index] + np.exp(0.5 * self.log_var[index]) * epsilon
        return drawn


def seen(vae: VAE, images: Array) -> Array:
    """8-bit images as the model sees them: float32 in [0, 1], binarized where it binarizes."""
    return torch.cat(list(measure.seen(vae, torch.from_numpy(images), seed=0))).numpy()


def nelbo_sd(vae: VAE, images: Array) -> float:
    """Standard deviation of the NELBO over the first MOST 8-bit images, in nats."""
    with torch.inference_mode():
        values = measure.elbo(vae, torch.from_numpy(images[:MOST]), seed=0).nelbo_nats
    return float(values.std()) if len(values) > 1 else 0.0


def encode(vae: VAE, images: Array) -> Posterior:
    """Posteriors of images in [0, 1], (images, C, H, W)."""
    with torch.inference_mode():
        parts = [vae.encode(batch) for batch in torch.from_numpy(images).split(BATCH)]
    mu, log_var = (torch.cat(part).numpy() for part in zip(*parts, strict=True))
    return Posterior(mu, log_var)


def decode(vae: VAE, latents: Array) -> Array:
    """Mean images of latents (n, latent) in [0, 1], (n, C, H, W)."""
    z = torch.from_numpy(np.ascontiguousarray(latents, dtype=np.float32))
    with torch.inference_mode():
        means = [vae.likelihood.mean(vae.decode(batch)) for batch in z.split(BATCH)]
    return torch.cat(means).numpy()


def spread(
    vae: VAE, posterior: Posterior, indices: Array, decodes: int, seed: int
) -> tuple[Array, Array]:
    """Mean and variance over stochastic decodes z ~ q(z|x) of the images at `indices`.

    Returns two arrays (images, C, H, W). The variance is that of the decoder's mean image: it
    shows what the latent code leaves open, not the noise of the likelihood.
    """
    noise = np.random.default_rng(seed)
    stacks = [decode(vae, posterior.sample(int(index), decodes, noise)) for index in indices]
    return np.stack([s.mean(axis=0) for s in stacks]), np.stack([s.var(axis=0) for s in stacks])
