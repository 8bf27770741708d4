"""What the report of a sweep shows, figure by figure, drawn from the files of its stages."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from matplotlib.figure import Figure

from pipeline.errors import UserError
from pipeline.figures import atlas, style
from pipeline.figures.importance import Importance, importance
from pipeline.figures.inputs import read_inputs
from pipeline.figures.reading import READING
from pipeline.figures.report import Plate
from pipeline.figures.trials import ascending
from pipeline.paths import Paths
from pipeline.settings.space import Space
from pipeline.vae.checkpoint import load_model

PREPARED = "samples"  # drawn by `prepare`, where the images are


class Drawings:
    """Nothing is drawn, and no model passes images, before a figure needs it."""

    def __init__(self, space: Space, paths: Paths):
        """The outputs of all stages before render must be there; see `pipeline.results.record`."""
        self.space = space.model_copy(update={"searched": ascending(space.searched)})
        self.inputs = read_inputs(paths, self.space.searched)
        self._paths = paths

    @cached_property
    def ranking(self) -> Importance | str:
        return importance(self.inputs.trials, self.space.searched, self.inputs.parts)

    @cached_property
    def gallery(self) -> atlas.Gallery:
        first = load_model(self._paths.retrain / "first_epoch.safetensors", self._paths.config)
        best = load_model(self._paths.model, self._paths.config)
        return atlas.make_gallery(self.space.render, self.inputs, first, best)

    @property
    def sections(self) -> dict[str, Callable[[], list[Plate]]]:
        """The sections of the report, in order, each with what draws its figures."""
        space, inputs, samples = self.space, self.inputs, "Training images of every class."
        return {
            "Data": lambda: [Plate(PREPARED, "Samples", samples, inputs.samples_png)],
            "Search": lambda: atlas.search_plates(space, inputs, self.ranking),
            "Training": lambda: atlas.training_plates(space.render, inputs, self.gallery),
            "Pictures": lambda: atlas.picture_plates(space.render, self.gallery),
            "Latent space": lambda: atlas.latent_plates(space.render, inputs, self.gallery),
        }

    @property
    def names(self) -> list[str]:
        """What `figure` takes, in the order of the report."""
        absent = {PREPARED} if "pareto" in self.inputs.best else {PREPARED, "pareto"}
        return [name for name in READING if name not in absent]

    def figure(self, name: str) -> Figure:
        """A figure. Raises UserError for a name that there is not, or with nothing to draw."""
        if name not in self.names:
            raise UserError(f"figure must be one of {', '.join(self.names)}, but got {name!r:.80}")
        with style.applied():
            drawn = (plate for draw in self.sections.values() for plate in draw())
            content = next(plate.content for plate in drawn if plate.name == name)
        if not isinstance(content, Figure):
            raise UserError(f"there is no figure {name}: {content!s}")
        return content
