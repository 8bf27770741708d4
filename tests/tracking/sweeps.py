"""A small sweep on disk, as its stages leave it: a ledger and output files, nothing trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from ledgers import open_ledger
from recording import record_stages
from studies import SPACE, next_lease

from pipeline.files import write_json, write_text
from pipeline.paths import Paths
from pipeline.settings.machine import Machine
from pipeline.settings.snapshot import save
from pipeline.settings.space import Space, load_space
from pipeline.study.identity import Study, candidate_study, search_study
from pipeline.study.storage.ledger import Lease, storage_url

DATA = "d" * 64
META = {"git_commit": "c0ffee", "git_dirty": False, "lock_sha256": "10c4", "host": "a"}
CHOSEN: dict[str, Any] = {"beta": 1.0, "monitor": "total"}


def curve(epochs: int) -> list[dict[str, Any]]:
    return [
        {"epoch": e, "nelbo_nats": 100.0 - e, "recon_nats": 90.0 - e, "kl_nats": 10.0,
         "ended_ms": 1_700_000_000_000 + 1000 * e}
        for e in range(1, epochs + 1)
    ]  # fmt: skip


class Desk:
    """The sweep `tiny` in the checkout `root`, worked on by hand."""

    def __init__(self, root: Path, machine: Machine | None = None):
        self.root = root
        write_text(root / "search_spaces" / "tiny.yaml", yaml.safe_dump(SPACE))
        self.space: Space = load_space(root, "tiny")
        self.machine = machine or Machine()
        self.paths = Paths(root, "tiny")
        save(self.space, self.paths, "settings")
        self.ledger = open_ledger(storage_url(self.machine, self.paths))
        self.study = search_study(self.space, DATA)
        self.ledger.open_study(self.study.id, "tiny", "search", self.study.spec)
        self.candidate = candidate_study(self.space, DATA, CHOSEN)

    def claim(self, study: Study) -> Lease:
        lease = next_lease(self.ledger, study.id, CHOSEN, meta=META)
        assert lease
        return lease

    def complete(self, study: Study, nelbo: float = 97.0) -> None:
        result = {"nelbo_nats": nelbo, "best_epoch": 3}
        lease = self.claim(study)
        self.ledger.report(lease, curve(3))
        self.ledger.finish(lease, "complete", curve(3), result)

    def run_all_stages(self) -> None:
        for nelbo in (97.0, 96.0):
            self.complete(self.study, nelbo)
        self.write_search()
        self.ledger.open_study(self.candidate.id, "tiny", "candidate", self.candidate.spec)
        for _ in range(2):
            self.complete(self.candidate)
        entry = {"study": self.study.id, "candidate": 0, "number": 1, "parameters": CHOSEN}
        write_json(self.paths.retrain / "winner.json",
                   {**entry, "sentence": "It won.", "values_nelbo_nats": [96.0, 97.0]})  # fmt: skip
        write_text(self.paths.retrain / "candidates.csv", "candidate\n0\n")
        write_text(self.paths.retrain / "model.safetensors", "the weights")
        record = {"data_sha256": DATA, "likelihood": "bernoulli", "sigma": None, "shape": [1, 8, 8]}
        write_json(self.paths.retrain / "config.json", record)
        figures = {"nelbo_nats": 95.0, "recon_nats": 85.0, "kl_nats": 10.0, "seeds": {"count": 2}}
        write_json(self.paths.evaluate / "metrics.json", figures)
        write_text(self.paths.render / "report.html", "<p>")
        record_stages(self.paths, self.space, "retrain", "evaluate", "render")

    def write_search(self) -> None:
        counts = {"train": 80, "validation": 10, "test": 10}
        manifest = {"sha256": DATA, "data": "digits", "shape": [1, 8, 8], "counts": counts}
        write_json(self.paths.prepare / "manifest.json", manifest)
        ranking = [{"number": 1, "nelbo_nats": 96.0, "parameters": CHOSEN}]
        write_json(self.paths.search / "best.json", {"study": self.study.id, "ranking": ranking})
        record_stages(self.paths, self.space, "prepare", "search")
