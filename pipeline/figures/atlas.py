"""Which figures the report shows, in which order, and the line under each."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from matplotlib.figure import Figure

from pipeline.figures import curves, images, latent, passes, search, style, walks
from pipeline.figures.importance import Importance
from pipeline.figures.inputs import Inputs
from pipeline.figures.passes import Array, Posterior
from pipeline.figures.report import Plate
from pipeline.figures.trials import finished
from pipeline.settings.sections import Render
from pipeline.settings.space import Space
from pipeline.vae.model import VAE

FIRST, BEST = "first epoch", "best epoch"
MOST_TRAVERSED = 8


@dataclass(frozen=True)
class Gallery:
    """Test images as the models see them, and the posteriors that every model gives them."""

    images: Array  # (points, C, H, W) in [0, 1]
    labels: Array  # (points,)
    shown: Array  # (n,) the few of them that appear as pictures
    models: dict[str, VAE]
    posteriors: dict[str, Posterior]

    @property
    def originals(self) -> Array:
        return self.images[self.shown]

    @property
    def active_first(self) -> Array:
        """Latent dimensions of the best model, the most active first, (latent,)."""
        return np.argsort(-self.posteriors[BEST].activity(), kind="stable")

    def decode(self, latents: dict[str, Array]) -> dict[str, Array]:
        """Each model's own latents (..., latent) as its images (..., C, H, W)."""
        decoded = {}
        for label, z in latents.items():
            flat = passes.decode(self.models[label], z.reshape(-1, z.shape[-1]))
            decoded[label] = flat.reshape(*z.shape[:-1], *flat.shape[1:])
        return decoded


def make_gallery(render: Render, inputs: Inputs, first: VAE, best: VAE) -> Gallery:
    """Encodes a fixed random choice of `render.points` test images with both models."""
    count = min(render.points, len(inputs.images))
    chosen = np.sort(np.random.default_rng(0).choice(len(inputs.images), count, replace=False))
    pictures = passes.seen(best, inputs.images[chosen])
    models = {FIRST: first, BEST: best}
    return Gallery(
        images=pictures,
        labels=inputs.labels[chosen],
        shown=images.representatives(inputs.labels[chosen], render.images),
        models=models,
        posteriors={label: passes.encode(vae, pictures) for label, vae in models.items()},
    )


def search_plates(space: Space, inputs: Inputs, ranking: Importance | str) -> list[Plate]:
    """The study: history, curves, importance, slices, parallel coordinates, Pareto front."""
    trials, searched, best = inputs.trials, space.searched, inputs.best["number"]
    if finished(trials).empty:
        return [Plate("history", "Search", "", "No trial has finished: there is nothing to draw.")]
    return [
        Plate("history", "Optimization history",
               "Rings are trials that paused at a rung or were pruned, with the NELBO that they had"
               " come to. Trials beyond the axis stand at its upper edge as triangles.",
               search.history(trials, best)),
        Plate("intermediate", "Learning curves of all trials",
               "A ring marks the rung at which a trial paused, a cross the epoch at which it was"
               " pruned.",
               search.intermediate(inputs.curves, trials, best, space.search.pauses)),
        Plate("importance", "Hyperparameter importance",
               "How much worse the forest ranks the trials when one hyperparameter is shuffled; an"
               " out-of-bag R² near 0 says that it has learned nothing. Trials are compared at the"
               " first rung, where all have been: their ends would mostly say how long each was"
               " trained.",
               ranking if isinstance(ranking, str) else search.importances(ranking)),
        Plate("slices", "Slices",
               "Trials against one hyperparameter at a time; the others vary too, and rings have"
               " had fewer epochs than dots.",
               search.slices(trials, searched, best) if searched
               else "No hyperparameter was searched."),
        Plate("parallel", "Parallel coordinates",
               "One line a trial, dark ones are the best; pale ones had fewer epochs: they paused,"
               " or, dashed, were pruned; “none” where a hyperparameter does not exist.",
               search.parallel(trials, searched, best) if searched
               else "No hyperparameter was searched."),
        *([Plate("pareto", "Pareto front",
                  "No trial has both a lower rate and a lower distortion than one on the front.",
                  search.pareto(trials, inputs.best["pareto"]))]
           if "pareto" in inputs.best else []),
    ]  # fmt: skip


def training_plates(render: Render, inputs: Inputs, gallery: Gallery) -> list[Plate]:
    """Curves of the winner and of all retrained runs; what the latent dimensions carry."""
    winner, window = inputs.winner, render.smoothing
    carried = {label: (p.kl(), p.activity()) for label, p in gallery.posteriors.items()}
    return [
        Plate("training_curves", "Training curves",
               "β = 1 NELBO and its parts whatever β trains; train figures are means over the"
               " epoch while the weights move.",
               curves.training(inputs.winning_run, window, winner.get("best_epoch"))),
        Plate("candidates", "Retrained candidates",
               "One line a seed: the spread of a colour is seed noise. An interval that reaches 0"
               " leaves open whether the candidate is worse at all.",
               curves.candidates(inputs.history, inputs.candidates, winner["candidate"])),
        Plate("units", "Latent dimensions",
               "A dimension without KL carries nothing about the image.", curves.units(carried)),
    ]  # fmt: skip


def picture_plates(render: Render, gallery: Gallery) -> list[Plate]:
    """Reconstructions, prior samples and uncertainty maps."""
    means = gallery.decode({label: p.mu[gallery.shown] for label, p in gallery.posteriors.items()})
    latent_dim = gallery.posteriors[BEST].mu.shape[1]
    z = np.random.default_rng(1).standard_normal((render.prior_samples, latent_dim))
    few, decodes = gallery.shown[: images.PER_ROW], render.uncertainty_decodes
    average, variance = passes.spread(
        gallery.models[BEST], gallery.posteriors[BEST], few, decodes, seed=2
    )
    return [
        Plate("reconstructions", "Reconstructions",
               "Decoded from the posterior mean of each test image.",
               images.reconstructions(gallery.originals, means)),
        Plate("prior_samples", "Prior samples", "Both models decode the same draws.",
               images.prior_samples(gallery.decode({FIRST: z, BEST: z}))),
        Plate("uncertainty", "Uncertainty maps",
               "z is drawn from the best model's posterior of the image: bright pixels are those"
               " that the latent code leaves open.",
               images.uncertainty(gallery.images[few], average, variance, decodes)),
    ]  # fmt: skip


def latent_plates(render: Render, inputs: Inputs, gallery: Gallery) -> list[Plate]:
    """Scatters, decoded grids, interpolations and traversals."""
    return [
        Plate("latent_scatter", "Latent scatter",
               "Posterior means; t-SNE and UMAP keep neighbourhoods, not distances or sizes.",
               _scatters(render, inputs, gallery)),
        Plate("manifold", "Decoded grid",
               "Left: equal steps. Right: normal quantiles, so that every tile stands for the same"
               " prior probability. Other dimensions are 0.", _manifold(render, gallery)),
        Plate("interpolation", "Interpolation",
               "Between the posterior means of two images, along the line and along the arc.",
               _interpolations(render, gallery)),
        Plate("traversal", "Traversals",
               "Around the posterior mean of one image; the dimensions are the best model's most"
               " active ones.", _traversals(render, gallery)),
    ]  # fmt: skip


def _scatters(render: Render, inputs: Inputs, gallery: Gallery) -> Figure:
    latent_dim = gallery.posteriors[BEST].mu.shape[1]
    if latent_dim == 1:
        planes = {
            label: {"line": latent.by_class(p.mu, gallery.labels)}
            for label, p in gallery.posteriors.items()
        }
    else:
        methods = [*(["latent"] if latent_dim == 2 else []), *render.projections]
        planes = {
            label: {method: latent.project(p.mu, method) for method in methods}
            for label, p in gallery.posteriors.items()
        }
    return latent.scatters(planes, gallery.labels, inputs.classes)


def _manifold(render: Render, gallery: Gallery) -> Figure:
    vae, side = gallery.models[BEST], render.grid_side
    axes = {
        f"range ±{render.grid_range:g}": walks.range_axis(side, render.grid_range),
        "normal quantiles": walks.quantile_axis(side),
    }
    order = gallery.active_first
    if order.size == 1:
        return latent.manifold_line(
            {name: (axis, passes.decode(vae, walks.line(axis, 1))) for name, axis in axes.items()}
        )
    across, up = sorted(order[:2].tolist())
    panels = {
        name: (axis, passes.decode(vae, walks.plane(axis, order.size, (across, up))))
        for name, axis in axes.items()
    }
    return latent.manifold(panels, (across, up))


def _interpolations(render: Render, gallery: Gallery) -> Figure:
    ends, steps = gallery.shown[[0, -1]], render.interpolation_steps
    if gallery.shown.size > 1:
        ends = gallery.shown[:2]
    latents = {}
    for label, posterior in gallery.posteriors.items():
        start, end = posterior.mu[ends]
        arcs = [walks.linear(start, end, steps), walks.spherical(start, end, steps)]
        latents[label] = np.stack(arcs)
    rows = {
        f"{label}, {name}": walk
        for label, pair in gallery.decode(latents).items()
        for name, walk in zip(("linear", "spherical"), pair, strict=True)
    }
    return latent.interpolations(rows, gallery.images[ends])


def _traversals(render: Render, gallery: Gallery) -> Figure:
    dims = gallery.active_first[:MOST_TRAVERSED]
    steps, limit = render.traversal_steps, render.traversal_range
    latents = {
        label: walks.traversals(p.mu[gallery.shown[0]], dims, steps, limit)
        for label, p in gallery.posteriors.items()
    }
    return latent.traversals(gallery.decode(latents), dims, walks.range_axis(steps, limit))


def printed(plate: Plate) -> Plate:
    """The same with its figure as PNG."""
    drawn = plate.content
    return replace(plate, content=style.png(drawn)) if isinstance(drawn, Figure) else plate
