"""Draws the figures and writes the report, from the files of the earlier stages alone.

It runs on the CPU whatever the machine offers, so that the pictures are the same bytes.
"""

from __future__ import annotations

from pipeline.audit.outputs import audit_outputs
from pipeline.figures import advice, passes, report, style
from pipeline.figures.atlas import BEST, printed
from pipeline.figures.drawings import Drawings
from pipeline.files import read_json
from pipeline.paths import Paths
from pipeline.results.record import INPUTS, open_inputs, recorded
from pipeline.settings.machine import Machine
from pipeline.settings.space import Space
from pipeline.study.receipt import read_studies, recorded_part
from pipeline.study.search.beginning import beginning
from pipeline.study.search.sources import Source, sources
from pipeline.vae.process import prepare_process


def run(space: Space, machine: Machine, paths: Paths) -> None:
    """Writes paths.render: a PNG for every figure and report.html, all or nothing.

    The report says what of the earlier stages' outputs does not follow from their records.
    """
    prepare_process()
    made_from = open_inputs("render", space, paths)
    audit = audit_outputs(space, paths, INPUTS["render"])
    came_from = _sources(space, paths)
    drawings = Drawings(space, paths)
    space, inputs = drawings.space, drawings.inputs
    with style.applied():
        sections = {
            title: [printed(plate) for plate in draw()] for title, draw in drawings.sections.items()
        }
    sd = passes.nelbo_sd(drawings.gallery.models[BEST], inputs.images)
    tips = advice.advise(space, inputs, drawings.ranking, sd, came_from)
    page = report.build(space, inputs, sections, tips, audit.findings)
    with recorded("render", space, paths, made_from) as folder:
        for plate in (plate for plates in sections.values() for plate in plates):
            if isinstance(plate.content, bytes):
                (folder / f"{plate.name}.png").write_bytes(plate.content)
        (folder / paths.report.name).write_text(page, encoding="utf-8")


def _sources(space: Space, paths: Paths) -> list[Source]:
    (study,) = read_studies(paths.search_record)
    begins = beginning(space, paths, study["study"], read_json(paths.manifest))
    parts = [recorded_part(study["study"], part) for part in study["trials"]]
    return sources(space, parts, begins.informing)
