"""Figures of the latent space: projections by class, decoded grids, interpolations, traversals."""

from __future__ import annotations

import warnings

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm
from matplotlib.figure import Figure
from threadpoolctl import threadpool_limits

from pipeline.figures import style
from pipeline.figures.images import mosaic, show_strip, strip_height
from pipeline.figures.passes import Array

SEED = 0
NAMES = {
    "pca": ("PCA", "component 1", "component 2"),
    "tsne": ("t-SNE", "t-SNE 1", "t-SNE 2"),
    "umap": ("UMAP", "UMAP 1", "UMAP 2"),
    "latent": ("latent space", "$z_1$", "$z_2$"),
    "line": ("latent line", "$z_1$", "class (spread to be seen)"),
}


def project(mu: Array, method: str) -> Array:
    """Posterior means (points, latent) in the plane, (points, 2), by pca, tsne, umap or latent.

    `latent` takes the two coordinates as they are. If the posterior has collapsed, so that all
    means are the same, there is nothing to project and all points are the origin.
    """
    if np.ptp(mu, axis=0).max() == 0:
        return np.zeros((len(mu), 2))
    # One thread: sums in another order would send t-SNE elsewhere.
    with threadpool_limits(1):
        return {"pca": _pca, "tsne": _tsne, "umap": _umap, "latent": _as_is}[method](mu)


def by_class(mu: Array, labels: Array) -> Array:
    """One-dimensional posterior means (points, 1) across, a band for each class up, (points, 2)."""
    bands = np.random.default_rng(SEED).uniform(-0.4, 0.4, labels.size)
    return np.column_stack([mu[:, 0], labels + bands])


def _as_is(mu: Array) -> Array:
    return mu[:, :2]


def _pca(mu: Array) -> Array:
    from sklearn.decomposition import PCA

    points: Array = PCA(n_components=2, svd_solver="full").fit_transform(mu)
    return points


def _tsne(mu: Array) -> Array:
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(mu) - 1) / 3)
    model = TSNE(perplexity=perplexity, max_iter=1000, init="pca", random_state=SEED, n_jobs=1)
    points: Array = model.fit_transform(mu)
    return points


def _umap(mu: Array) -> Array:
    with warnings.catch_warnings():
        # It reports at import that its optional neural variant lacks its library.
        warnings.filterwarnings("ignore", "Tensorflow not installed", ImportWarning)
        from umap import UMAP

        model = UMAP(n_neighbors=min(15, len(mu) - 1), random_state=SEED, n_jobs=1)
        points: Array = model.fit_transform(mu)
    return points


def scatters(by_model: dict[str, dict[str, Array]], labels: Array, classes: list[str]) -> Figure:
    """Rows of models, columns of projections (points, 2), coloured by class (points,)."""
    columns = list(next(iter(by_model.values())))
    panel = min((style.WIDTH - 1.3) / len(columns), 4.2)
    drawing = style.figure(
        f"Posterior means of {labels.size} test images by class",
        0.7 + panel * len(by_model),
        width=panel * len(columns) + 1.3,
    )
    grid = drawing.subplots(len(by_model), len(columns), squeeze=False)
    colours = style.class_colours(len(classes))
    norm = BoundaryNorm(np.arange(len(classes) + 1) - 0.5, len(classes))
    for row, (model, planes) in zip(grid, by_model.items(), strict=True):
        for axes, method in zip(row, columns, strict=True):
            points = planes[method]
            axes.scatter(
                points[:, 0], points[:, 1], c=labels, cmap=colours, norm=norm, s=7, linewidths=0
            )
            title, across, up = NAMES[method]
            axes.set(title=f"{title}, {model}", xlabel=across, ylabel=up)
    bar = drawing.colorbar(ScalarMappable(norm, colours), ax=grid, aspect=40, pad=0.02)
    step = max(1, len(classes) // 25)
    bar.set_ticks(list(range(0, len(classes), step)), labels=list(map(_short, classes[::step])))
    bar.ax.tick_params(length=0)
    bar.ax.minorticks_off()
    bar.ax.invert_yaxis()
    return drawing


def _short(name: str) -> str:
    """A class name that fits beside the bar and is not read as mathematics."""
    return (name if len(name) <= 18 else f"{name[:17]}…").replace("$", r"\$")


def manifold(panels: dict[str, tuple[Array, Array]], dims: tuple[int, int]) -> Figure:
    """Decoded square slices: title -> (coordinates (side,), images (side * side, C, H, W))."""
    images = next(iter(panels.values()))[1]
    panel = 0.9 * style.WIDTH / len(panels) * images.shape[2] / images.shape[3]
    drawing = style.figure(
        f"Decoded grid over latent dimensions {dims[0] + 1} and {dims[1] + 1}, best epoch",
        0.95 + panel,
    )
    grid = drawing.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, (axis, images)) in zip(grid, panels.items(), strict=True):
        picture = mosaic(images, axis.size)
        axes.imshow(picture)
        axes.set(title=title, xlabel=f"$z_{{{dims[0] + 1}}}$", ylabel=f"$z_{{{dims[1] + 1}}}$")
        _ticks(axes, axis, picture.shape)
    return drawing


def manifold_line(panels: dict[str, tuple[Array, Array]]) -> Figure:
    """The same for a one-dimensional latent space: title -> (coordinates, images)."""
    images = next(iter(panels.values()))[1]
    height = 0.8 + len(panels) * (0.4 + strip_height(1, len(images), images))
    drawing = style.figure("Decoded latent line", height)
    grid = drawing.subplots(len(panels), 1, squeeze=False)[:, 0]
    for axes, (title, (axis, images)) in zip(grid, panels.items(), strict=True):
        picture = mosaic(images, axis.size)
        axes.imshow(picture)
        axes.set(title=title, xlabel="$z_1$")
        _ticks(axes, axis, picture.shape)
        axes.set_yticks([])
    return drawing


def _ticks(axes: Axes, axis: Array, shape: tuple[int, ...]) -> None:
    """Latent coordinates at the middles of about five tiles, upwards on the vertical axis."""
    chosen = np.unique(np.linspace(0, axis.size - 1, min(5, axis.size)).round().astype(int))
    names = [f"{axis[i]:.2g}" for i in chosen]
    wide, high = shape[1] / axis.size, shape[0] / axis.size
    axes.set_xticks((chosen + 0.5) * wide - 0.5, labels=names)
    axes.set_yticks((axis.size - chosen - 0.5) * high - 0.5, labels=names)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def interpolations(walks: dict[str, Array], ends: Array) -> Figure:
    """Rows of decoded walks (steps, C, H, W) between two originals `ends` (2, C, H, W)."""
    columns = len(next(iter(walks.values()))) + 2
    drawing = style.figure(
        "Interpolation between the latents of two test images (originals at both ends)",
        0.6 + 1.1 * strip_height(len(walks), columns, ends),
    )
    grid = drawing.subplots(len(walks), 1, squeeze=False)[:, 0]
    for axes, (label, images) in zip(grid, walks.items(), strict=True):
        show_strip(axes, np.concatenate([ends[:1], images, ends[1:]]), label)
    return drawing


def traversals(by_model: dict[str, Array], dims: Array, axis: Array) -> Figure:
    """Panels of decoded traversals (dims, steps, C, H, W), a row a dimension."""
    images = next(iter(by_model.values()))
    steps = images.shape[1]
    panel = (style.WIDTH - 0.6) / len(by_model)
    drawing = style.figure(
        "Traversals of the most active latent dimensions, the others as encoded",
        1.2 + panel * len(dims) / steps * images.shape[3] / images.shape[4],
        gap=0.05,
    )
    grid = drawing.subplots(1, len(by_model), squeeze=False)[0]
    for axes, (label, walks) in zip(grid, by_model.items(), strict=True):
        picture = mosaic(walks.reshape(-1, *walks.shape[2:]), steps)
        axes.imshow(picture)
        axes.set(title=label, xlabel="value of the traversed dimension")
        _ticks(axes, axis, picture.shape)
        high = picture.shape[0] / len(dims)
        names = [f"$z_{{{dim + 1}}}$" for dim in dims]
        axes.set_yticks((np.arange(len(dims)) + 0.5) * high - 0.5, labels=names)
    return drawing
