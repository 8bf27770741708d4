"""Stage retrain: the search's best candidates on fresh seeds at full budget, and the winner.

Reads prepare/ and search/best.json; writes retrain/: the winner's weights of its best, first and
last epoch (of its best seed) and of all its seeds, config.json to rebuild the model from,
candidates.csv, history.csv and winner.json.
"""

from __future__ import annotations

import math
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import Space
from pipeline.crew import run_studies
from pipeline.hyperparameters import Value
from pipeline.machine import Machine
from pipeline.paths import Paths, atomic_folder, read_json, write_json
from pipeline.reproduce import make_weights
from pipeline.study.compare import Matrix, interval
from pipeline.study.identity import Study, candidate_study
from pipeline.study.ledger import Ledger, storage_url
from pipeline.study.tables import cell, epoch_row
from pipeline.study.winner import Candidate, Verdict, choose
from pipeline.trainer import Trainer

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = ("model", "first_epoch", "last_epoch")  # what every run leaves behind


def run(space: Space, machine: Machine, paths: Paths) -> None:
    """Trains all candidates and writes the winner. Raises UserError if every run failed."""
    manifest = read_json(paths.prepare / "manifest.json")
    best = read_json(paths.search / "best.json")
    ledger = Ledger(storage_url(machine, paths))
    entries = best["ranking"][: space.retrain.top]
    studies = [candidate_study(space, manifest["sha256"], e["parameters"]) for e in entries]
    for study in studies:
        ledger.open_study(study.id, space.name, study.kind, study.spec)
    parameters = {s.id: e["parameters"] for s, e in zip(studies, entries, strict=True)}
    run_studies("retrain", space, machine, paths, ledger, studies, parameters)
    for study in studies:
        _make_missing_weights(space, machine, paths, ledger, study)
    candidates = _candidates(space, machine, paths, ledger, entries, studies)
    verdict = choose(candidates)
    winner = verdict.winner
    seed = min(range(len(winner.values)), key=lambda n: (winner.values[n], n))
    with atomic_folder(paths.retrain) as folder:
        _copy_weights(folder, winner, seed, paths)
        write_json(folder / "config.json", _config(space, manifest, winner.entry["parameters"]))
        write_json(folder / "winner.json", _winner(best, winner, seed, verdict.sentence))
        _candidates_table(candidates, verdict, list(space.searched)).to_csv(
            folder / "candidates.csv", index=False
        )
        _history_table(candidates).to_csv(folder / "history.csv", index=False)


def _config(space: Space, manifest: dict[str, Any], parameters: dict[str, Value]) -> dict[str, Any]:
    """What a model is rebuilt from."""
    return {
        "shape": manifest["shape"],
        "data": manifest["data"],
        "data_sha256": manifest["sha256"],
        **space.model.model_dump(),
        **space.hyperparameters(parameters).model_dump(),
    }


def _candidates(
    space: Space,
    machine: Machine,
    paths: Paths,
    ledger: Ledger,
    entries: list[dict[str, Any]],
    studies: list[Study],
) -> list[Candidate]:
    """The retrained candidates; the weights that each run kept are measured image by image."""
    from pipeline.trainer import resolve_device
    from pipeline.vae.data import load_images
    from pipeline.vae.process import prepare_process

    prepare_process()
    validation = load_images(paths.prepare, "validation", resolve_device(machine.device))
    manifest = read_json(paths.prepare / "manifest.json")
    candidates = []
    for index, (entry, study) in enumerate(zip(entries, studies, strict=True)):
        runs = ledger.trials(study.id, 0, study.budget - 1)
        config = _config(space, manifest, entry["parameters"])
        weights = [paths.trial(study.id, run.number) / "model.safetensors" for run in runs]
        measured = _measured(weights if all(run.result for run in runs) else [], config, validation)
        candidates.append(Candidate(index, entry, study, runs, measured))
    return candidates


def _make_missing_weights(
    space: Space, machine: Machine, paths: Paths, ledger: Ledger, study: Study
) -> None:
    """Trains those runs again whose weights someone has deleted."""
    trainer = None
    for run in ledger.trials(study.id, 0, study.budget - 1):
        folder = paths.trial(study.id, run.number)
        if not run.result or all((folder / f"{name}.safetensors").exists() for name in WEIGHTS):
            continue
        print(f"retrain {space.name}: {folder}/*.safetensors are gone: training them again",
              file=sys.stderr)  # fmt: skip
        trainer = trainer or Trainer(space, paths, machine.device)
        make_weights(trainer, study, run, folder)


def _measured(weights: list[Path], config: dict[str, Any], validation: Tensor) -> Matrix:
    """(seeds, images) NELBO in nats, with the noise that trials are measured with."""
    import numpy as np

    from pipeline.vae.checkpoint import rebuild
    from pipeline.vae.fit import VALIDATION_SEED
    from pipeline.vae.measure import elbo

    rows = np.empty((len(weights), len(validation)))
    for row, path in zip(rows, weights, strict=True):
        vae = rebuild(path, config, str(validation.device))
        row[:] = elbo(vae, validation, VALIDATION_SEED).nelbo_nats.cpu().numpy()
    return rows


def _copy_weights(folder: Path, winner: Candidate, seed: int, paths: Paths) -> None:
    for name in WEIGHTS:
        source = paths.trial(winner.study.id, seed) / f"{name}.safetensors"
        shutil.copyfile(source, folder / source.name)
    (folder / "seeds").mkdir()
    for run in winner.runs:
        source = paths.trial(winner.study.id, run.number) / "model.safetensors"
        shutil.copyfile(source, folder / "seeds" / f"seed-{run.number}.safetensors")


def _winner(best: dict[str, Any], winner: Candidate, seed: int, sentence: str) -> dict[str, Any]:
    return {
        "study": best["study"],
        "candidate": winner.index,
        "number": winner.entry["number"],
        "seed": seed,
        "nelbo_nats": winner.values[seed],
        "mean_nelbo_nats": winner.mean,
        "values_nelbo_nats": winner.values,
        "search_nelbo_nats": winner.entry["nelbo_nats"],
        "best_epoch": (winner.runs[seed].result or {}).get("best_epoch"),
        "weights": winner.weights,
        "parameters": winner.entry["parameters"],
        "sentence": sentence,
    }


def _candidates_table(candidates: list[Candidate], verdict: Verdict, searched: list[str]) -> Any:
    import pandas as pd

    rows = []
    for candidate in candidates:
        low, high = interval(candidate.values) or (None, None)
        mean = candidate.mean if math.isfinite(candidate.mean) else None
        row = {
            "candidate": candidate.index,
            "number": candidate.entry["number"],
            "mean_nelbo_nats": mean,
            "low_nelbo_nats": low,
            "high_nelbo_nats": high,
            **_behind(candidate, verdict.leader),
            "best_or_equal": candidate in verdict.equals,
            "search_nelbo_nats": candidate.entry["nelbo_nats"],
            "seeds": len(candidate.runs),
            "weights": candidate.weights,
            "winner": candidate is verdict.winner,
        }
        names = searched or list(candidate.entry["parameters"])
        rows.append(row | {name: cell(candidate.entry["parameters"].get(name)) for name in names})
    return pd.DataFrame(rows)


def _behind(candidate: Candidate, leader: Candidate) -> dict[str, float | None]:
    """The paired difference from the leader; empty for the leader itself and for a failure."""
    names = ("difference", "low_difference", "high_difference", "seed_error", "image_error")
    figures: tuple[float | None, ...] = (None,) * len(names)
    if candidate is not leader and math.isfinite(candidate.mean):
        gap = candidate.behind(leader)
        figures = (gap.mean, gap.low, gap.high, gap.seed_error, gap.image_error)
    return {f"{name}_nats": figure for name, figure in zip(names, figures, strict=True)}


def _history_table(candidates: list[Candidate]) -> Any:
    import pandas as pd

    return pd.DataFrame(
        {
            "candidate": candidate.index,
            "seed": run.number,
            **epoch_row(record),
            "kl_per_dim": cell(record["kl_per_dim"]),
        }
        for candidate in candidates
        for run in candidate.runs
        for record in run.curve
    )
