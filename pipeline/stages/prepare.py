"""Stage prepare: verified images, split once, with the figures that every model must beat.

Writes {train,validation,test}_{images,labels}.npy, manifest.json and samples.png.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.data import sources
from pipeline.data.readers import RawData
from pipeline.data.reference import Split, described
from pipeline.data.split import SPLITS, hold_out, split
from pipeline.files import sha256_of, write_json
from pipeline.paths import Paths
from pipeline.results.record import recorded
from pipeline.seeds import digest
from pipeline.settings.machine import Machine
from pipeline.settings.sections import Data
from pipeline.settings.space import Space


def run(space: Space, machine: Machine, paths: Paths) -> None:
    """Fetches, checks, splits and describes the data of a sweep. Raises UserError."""
    from pipeline.figures.samples import draw_samples

    raw = sources.load(space, machine, paths)
    chosen = split(space.data, raw)
    held_out = None
    if space.data.hold_out is not None:
        chosen, held_out = hold_out(space.data.hold_out, chosen, raw.classes)
    with recorded("prepare", space, paths, {}) as folder:
        splits = {name: each.write_split(folder, name) for name, each in chosen.items()}
        if held_out is not None:
            held_out.write(folder / paths.held_out.name)
        write_json(folder / paths.manifest.name, _manifest(space.data, raw, splits, folder))
        seed = space.data.validation.seed
        draw_samples(folder / paths.samples.name, *splits["train"], raw.classes, seed)


def _manifest(data: Data, raw: RawData, splits: dict[str, Split], folder: Path) -> dict[str, Any]:
    files = {path.name: sha256_of(path) for path in sorted(folder.glob("*.npy"))}
    figures = described({name: splits[name] for name in SPLITS}, len(raw.classes))
    own_test = raw.test_images is not None
    fitted = {"size": data.shape, "crop": data.crop, "colour": data.colour, "flip": data.flip}
    usual = {"size": None, "colour": None, "flip": False}
    return {
        "data": data.name,
        **({"fitted": fitted} if {**fitted, **usual} != fitted else {}),
        "shape": figures.pop("shape"),
        "classes": raw.classes,
        **figures,
        "split": {
            "test": "the set's own" if own_test else data.test.model_dump(),
            "limit": data.limit,
            "hold_out": data.hold_out,
            "validation": data.validation.model_dump(),
        },
        "source_sha256": raw.source_sha256,
        "files": files,
        "sha256": digest(files),
    }
