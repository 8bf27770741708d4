"""Draws the figures and writes the report, from the files of the earlier stages alone.

It runs on the CPU whatever the machine offers, so that the pictures are the same bytes.
"""

from __future__ import annotations

from pipeline.config import Space
from pipeline.figures import advice, atlas, report, style
from pipeline.figures.inputs import read_inputs
from pipeline.figures.trials import ascending, importance
from pipeline.machine import Machine
from pipeline.paths import Paths, atomic_folder
from pipeline.vae.checkpoint import load_model
from pipeline.vae.process import prepare_process


def run(space: Space, machine: Machine, paths: Paths) -> None:
    """Writes paths.render: a PNG for every figure and report.html, all or nothing."""
    prepare_process()
    space = space.model_copy(update={"searched": ascending(space.searched)})
    inputs = read_inputs(paths, space.searched)
    record = paths.retrain / "config.json"
    first = load_model(paths.retrain / "first_epoch.safetensors", record)
    best = load_model(paths.retrain / "model.safetensors", record)
    ranking = importance(inputs.trials, space.searched)
    with style.applied():
        gallery = atlas.make_gallery(space.render, inputs, first, best)
        sections = atlas.sections(space, inputs, ranking, gallery)
    best_trial = inputs.best["number"]
    tips = advice.advise(space, inputs.trials, inputs.candidates, ranking, best_trial)
    page = report.build(space, inputs, sections, tips)
    with atomic_folder(paths.render) as folder:
        for plate in (plate for plates in sections.values() for plate in plates):
            if isinstance(plate.content, bytes):
                (folder / f"{plate.name}.png").write_bytes(plate.content)
        (folder / "report.html").write_text(page, encoding="utf-8")
