"""Records for stage folders that a test has filled by hand."""

from __future__ import annotations

import hashlib

from pipeline.paths import Paths
from pipeline.results.record import INPUTS, RECORD, write_record
from pipeline.settings.space import Space


def record_stages(paths: Paths, space: Space, *stages: str) -> None:
    """Writes the records of these stages, as if the stages had left what is in their folders."""
    for stage in stages:
        paths.stage(stage).mkdir(parents=True, exist_ok=True)
        inputs = {
            each: hashlib.sha256((paths.stage(each) / RECORD).read_bytes()).hexdigest()
            for each in INPUTS[stage]
        }
        write_record(paths.stage(stage), stage, space, inputs)
