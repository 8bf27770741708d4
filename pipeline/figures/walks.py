"""Walks through latent space as arrays of latents: grids, interpolations, traversals."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from pipeline.figures.passes import Array


def range_axis(side: int, limit: float) -> Array:
    """Equally spaced coordinates over [-limit, limit], (side,)."""
    return np.linspace(-limit, limit, side)


def quantile_axis(side: int) -> Array:
    """Normal quantiles at the middles of `side` slices of equal prior probability, (side,)."""
    return np.array([NormalDist().inv_cdf((i + 0.5) / side) for i in range(side)])


def plane(axis: Array, latent_dim: int, dims: tuple[int, int]) -> Array:
    """Latents of a square slice through the prior's mean, (side * side, latent).

    Rows run from the top (highest second coordinate) down, columns from left to right.
    """
    latents = np.zeros((axis.size, axis.size, latent_dim), dtype=np.float32)
    latents[:, :, dims[0]] = axis[None, :]
    latents[:, :, dims[1]] = axis[::-1, None]
    return latents.reshape(-1, latent_dim)


def line(axis: Array, latent_dim: int) -> Array:
    """Latents along the first dimension, (side, latent)."""
    latents = np.zeros((axis.size, latent_dim), dtype=np.float32)
    latents[:, 0] = axis
    return latents


def linear(start: Array, end: Array, steps: int) -> Array:
    """The straight line from start to end, both (latent,), as (steps, latent)."""
    t = np.linspace(0, 1, steps)[:, None]
    return (1 - t) * start + t * end


def spherical(start: Array, end: Array, steps: int) -> Array:
    """Spherical interpolation (Shoemake 1985) of (latent,) vectors, as (steps, latent).

    Parallel and opposite vectors span no arc; for them it is the straight line.
    """
    norms = np.linalg.norm(start) * np.linalg.norm(end)
    if norms == 0:
        return linear(start, end, steps)
    angle = np.arccos(np.clip(np.dot(start, end) / norms, -1, 1))
    if np.sin(angle) < 1e-4:
        return linear(start, end, steps)
    t = np.linspace(0, 1, steps)[:, None]
    arc: Array = (np.sin((1 - t) * angle) * start + np.sin(t * angle) * end) / np.sin(angle)
    return arc


def traversals(start: Array, dims: Array, steps: int, limit: float) -> Array:
    """Each of `dims` in turn from -limit to limit, the others as in `start` (latent,).

    Returns (dims, steps, latent).
    """
    walks = np.tile(start, (len(dims), steps, 1))
    for walk, dim in zip(walks, dims, strict=True):
        walk[:, dim] = range_axis(steps, limit)
    return walks
