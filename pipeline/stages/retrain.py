"""Stage retrain: the search's best candidates on fresh seeds at full budget, and the winner.

Reads prepare/ and search/best.json; writes retrain/: the winner's weights of its best, first and
last epoch (of its best seed) and of all its seeds, config.json to rebuild the model from,
candidates.csv, history.csv and winner.json.
"""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import Machine, Space
from pipeline.crew import run_studies
from pipeline.errors import UserError
from pipeline.paths import Paths, atomic_folder, read_json, write_json
from pipeline.study.identity import Study, candidate_study
from pipeline.study.ledger import Ledger, Trial, storage_url
from pipeline.study.tables import cell, epoch_row

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Candidate:
    """One setting and its runs, run n on fresh seed n."""

    index: int
    entry: dict[str, Any]  # number, nelbo_nats and parameters as the search has them
    study: Study
    runs: list[Trial]

    @property
    def values(self) -> list[float]:
        """The validation NELBO of each seed in nats; a failed run counts as infinite."""
        return [run.result["nelbo_nats"] if run.result else math.inf for run in self.runs]

    @property
    def mean(self) -> float:
        return sum(self.values) / len(self.values)

    @property
    def weights(self) -> int:
        """The size of the model."""
        return self.runs[0].result["weights"] if self.runs[0].result else 0


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
    candidates = [
        Candidate(index, entry, study, ledger.trials(study.id, 0, study.budget - 1))
        for index, (entry, study) in enumerate(zip(entries, studies, strict=True))
    ]
    winner, sentence = choose(candidates)
    seed = min(range(len(winner.values)), key=lambda n: (winner.values[n], n))
    with atomic_folder(paths.retrain) as folder:
        _copy_weights(folder, winner, seed, paths)
        config = {
            "shape": manifest["shape"],
            "data": manifest["data"],
            "data_sha256": manifest["sha256"],
            **space.model.model_dump(),
            **space.hyperparameters(winner.entry["parameters"]).model_dump(),
        }
        write_json(folder / "config.json", config)
        write_json(folder / "winner.json", _winner(best, winner, seed, sentence))
        _candidates_table(candidates, winner, list(space.searched)).to_csv(
            folder / "candidates.csv", index=False
        )
        _history_table(candidates).to_csv(folder / "history.csv", index=False)


def choose(candidates: list[Candidate]) -> tuple[Candidate, str]:
    """The winner and an honest sentence on it.

    The lowest mean validation NELBO leads. Those whose distance from it is within the seed noise
    cannot be told apart from it; of these the smallest model wins. Raises UserError if none is
    left.
    """
    finite = [candidate for candidate in candidates if math.isfinite(candidate.mean)]
    if not finite:
        failed = [run.reason for c in candidates for run in c.runs if run.reason]
        reasons = "; ".join(sorted({reason.splitlines()[0] for reason in failed}))
        raise UserError(
            f"retrain: every candidate failed on some seed: {reasons}: choose a tamer search space"
        )
    leader = min(finite, key=lambda candidate: (candidate.mean, candidate.index))
    noise = least_significant_difference([candidate.values for candidate in finite])
    rivals = [c for c in finite if c is not leader and c.mean - leader.mean <= noise]
    winner = min([leader, *rivals], key=lambda c: (c.weights, c.mean, c.index))
    if len(finite) == 1 < len(candidates):
        return winner, f"Candidate {winner.index} is the only one that did not fail."
    return winner, _sentence(winner, leader, rivals, len(finite), noise)


def least_significant_difference(groups: list[list[float]]) -> float:
    """The largest difference of two means that seeds alone explain (95 %, two-sided).

    Fisher's least significant difference: the seeds' variance is pooled over all candidates, so
    that two candidates on three seeds have four degrees of freedom and not two. With one seed a
    candidate nothing is known of the noise, and 0 is returned.
    """
    seeds = len(groups[0])
    freedom = len(groups) * (seeds - 1)
    if freedom == 0:
        return 0.0
    from scipy.stats import t

    squares = sum((v - sum(values) / seeds) ** 2 for values in groups for v in values)
    quantile = float(t.ppf((1 + CONFIDENCE) / 2, freedom))
    return quantile * math.sqrt(squares / freedom * 2 / seeds)


def interval(values: list[float]) -> tuple[float, float] | None:
    """The 95 % t interval of a mean over seeds; None for a single value."""
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return None
    from scipy.stats import t

    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    half = float(t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * math.sqrt(variance / len(values))
    return mean - half, mean + half


def _sentence(
    winner: Candidate, leader: Candidate, rivals: list[Candidate], count: int, noise: float
) -> str:
    seeds = len(winner.values)
    if count == 1:
        return f"Candidate {winner.index} is the only one."
    if seeds == 1:
        return (
            f"Candidate {winner.index} has the lowest NELBO, on a single seed:"
            " whether it is better than the others is not known."
        )
    if not rivals:
        return (
            f"Candidate {winner.index} is better than every other beyond the noise of {seeds} seeds"
            f" ({noise:.2f} nats)."
        )
    names = ", ".join(str(c.index) for c in sorted([leader, *rivals], key=lambda c: c.index))
    what = "smallest model" if winner is not leader else "lowest mean and no larger a model"
    return (
        f"Candidates {names} cannot be told apart: they differ by less than the noise of {seeds}"
        f" seeds ({noise:.2f} nats). Candidate {winner.index} wins as the {what}."
    )


def _copy_weights(folder: Path, winner: Candidate, seed: int, paths: Paths) -> None:
    for name in ("model", "first_epoch", "last_epoch"):
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


def _candidates_table(candidates: list[Candidate], winner: Candidate, searched: list[str]) -> Any:
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
            "search_nelbo_nats": candidate.entry["nelbo_nats"],
            "seeds": len(candidate.runs),
            "weights": candidate.weights,
            "winner": candidate is winner,
        }
        names = searched or list(candidate.entry["parameters"])
        rows.append(row | {name: cell(candidate.entry["parameters"].get(name)) for name in names})
    return pd.DataFrame(rows)


def _history_table(candidates: list[Candidate]) -> Any:
    import pandas as pd

    return pd.DataFrame(
        {"candidate": candidate.index, "seed": run.number, **epoch_row(record)}
        for candidate in candidates
        for run in candidate.runs
        for record in run.curve
    )
