"""The figures of a report one at a time, as objects."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property

from matplotlib.figure import Figure

from pipeline.errors import UserError
from pipeline.figures import atlas, style
from pipeline.figures.importance import importance
from pipeline.figures.inputs import read_inputs
from pipeline.figures.reading import READING
from pipeline.figures.report import Plate
from pipeline.figures.trials import ascending
from pipeline.paths import Paths
from pipeline.settings.space import Space
from pipeline.vae.checkpoint import load_model

PREPARED = "samples"  # drawn by `prepare`, where the images are


class Single:
    """Draws what the report of a sweep shows, from the files of its stages."""

    def __init__(self, space: Space, paths: Paths):
        """The outputs of all stages before render must be there; see `pipeline.record`."""
        self._space = space.model_copy(update={"searched": ascending(space.searched)})
        self._paths = paths
        self._inputs = read_inputs(paths, self._space.searched)

    @property
    def names(self) -> list[str]:
        """In the order of the report."""
        absent = {PREPARED} if "pareto" in self._inputs.best else {PREPARED, "pareto"}
        return [name for name in READING if name not in absent]

    def figure(self, name: str) -> Figure:
        """A figure. Raises UserError for a name that there is not, or with nothing to draw."""
        if name not in self.names:
            raise UserError(f"figure must be one of {', '.join(self.names)}, but got {name!r:.80}")
        with style.applied():
            (plate,) = (plate for plate in self._plates(name) if plate.name == name)
        if not isinstance(plate.content, Figure):
            raise UserError(f"there is no figure {name}: {plate.content!s}")
        return plate.content

    def _plates(self, name: str) -> Iterator[Plate]:
        """Those of the sections up to that with the figure."""
        space, inputs = self._space, self._inputs
        sections: tuple[Callable[[], list[Plate]], ...] = (
            lambda: atlas.search_plates(
                space, inputs, importance(inputs.trials, space.searched, inputs.parts)
            ),
            lambda: atlas.training_plates(space.render, inputs, self._gallery),
            lambda: atlas.picture_plates(space.render, self._gallery),
            lambda: atlas.latent_plates(space.render, inputs, self._gallery),
        )
        for draw in sections:
            plates = draw()
            if name in {plate.name for plate in plates}:
                yield from plates
                return

    @cached_property
    def _gallery(self) -> atlas.Gallery:
        first = load_model(self._paths.retrain / "first_epoch.safetensors", self._paths.config)
        best = load_model(self._paths.model, self._paths.config)
        return atlas.make_gallery(self._space.render, self._inputs, first, best)
