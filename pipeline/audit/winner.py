"""The retraining: which candidates ran, their runs, what was measured of them, and who won."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.audit import epochs
from pipeline.audit.book import Book, parts_of
from pipeline.audit.digests import sha256
from pipeline.audit.search import entry, sizes
from pipeline.audit.text import CLOSE, different
from pipeline.errors import UserError
from pipeline.results.states import Kind, State
from pipeline.study.confirmation.candidates import (
    best_seed,
    candidates_table,
    history_table,
    measurements,
    model_record,
    winner_record,
)
from pipeline.study.confirmation.race import Race
from pipeline.study.confirmation.race_from_records import race_of, used
from pipeline.study.confirmation.winner import Candidate, Verdict, choose
from pipeline.study.identity import candidate_study, changes
from pipeline.study.storage.rows import Trial, trials_of
from pipeline.vae.model import build
from pipeline.vae.setting import read_architecture, read_setting

FILE = "retrain/runs.json"
SINGLE = 1e-6  # relative: the mean of images, summed in another order


def findings(book: Book) -> Iterator[str]:
    """What does not follow in retrain/."""
    assert book.measured is not None
    space, data = book.space, book.manifest["sha256"]
    entries = book.best["ranking"][: space.retrain.top]
    studies = [candidate_study(space, data, each["parameters"]) for each in entries]
    if [run["study"] for run in book.runs] != [study.id for study in studies]:
        yield f"{FILE}: its studies are not those of the search's best {space.retrain.top}"
        return
    for run in book.runs:
        yield from entry(FILE, run, Kind.CANDIDATE)
    trials = [trials_of(parts_of(run)) for run in book.runs]
    race = race_of(space, [each["parameters"] for each in entries], trials)
    yield from _race(race, used(space, race, trials), trials)
    candidates = []
    for index, (chosen, study, run) in enumerate(zip(entries, studies, book.runs, strict=True)):
        if run["spec"] != json.loads(json.dumps(study.spec)):
            yield f"{FILE}: candidate {index}: its specification is not that of its study"
        yield from _runs(book, index, chosen["parameters"], trials[index], race)
        measured = book.measured[index, : len(trials[index]) if index in race.left else 0]
        dropped = race.dropped.get(index)
        candidates.append(Candidate(index, chosen, study, trials[index], measured, dropped))
    yield from _array(book, candidates)
    for candidate in candidates:
        yield from _measured(candidate)
    everyone = [trial for each in candidates for trial in each.runs]
    yield from sizes(FILE, space, [*book.trials, *everyone])  # the search's said theirs first
    if race.missing:
        return  # said already
    try:
        verdict = choose(candidates, race.looks)
    except UserError as error:
        yield f"retrain/winner.json: there is none: {error}"
        return
    yield from _outputs(book, candidates, verdict)


def _race(race: Race, due: list[list[Trial]], trials: list[list[Trial]]) -> Iterator[str]:
    """The runs are as long and as many as the race asks for."""
    yield from (
        f"{FILE}: candidate {ask.candidate}, seed {ask.seed}: ends before epoch {ask.until}, to"
        " which the race goes"
        for ask in race.missing
    )
    for index, (there, used_) in enumerate(zip(trials, due, strict=True)):
        if [trial.number for trial in there] != [trial.number for trial in used_]:
            yield (
                f"{FILE}: candidate {index}: has seeds {[trial.number for trial in there]}, but the"
                f" race asks for {race.seeds(index)}"
            )
        for trial, needed in zip(there, used_, strict=False):
            if len(trial.curve) > len(needed.curve):
                yield (
                    f"{FILE}: candidate {index}, seed {trial.number}: goes on after epoch"
                    f" {len(needed.curve)}, after which the race needs it no more"
                )


def _runs(
    book: Book, index: int, parameters: dict[str, Any], trials: list[Trial], race: Race
) -> Iterator[str]:
    options, images = book.space.retrain, book.counts["train"]
    setting = read_setting(book.space.record(parameters))
    for trial in trials:
        where = f"{FILE}: candidate {index}, seed {trial.number}"
        if trial.parameters != parameters:
            yield f"{where}: its parameters are not the candidate's"
        if trial.state == State.PRUNED:
            yield f"{where}: pruned, which no candidate is"
        until = race.asked.get((index, trial.number), 0)
        rung = until if until < options.epochs else 0
        for line in epochs.findings(setting, options.epochs, images, trial, rung):
            yield f"{where}: {line}"


def _array(book: Book, candidates: list[Candidate]) -> Iterator[str]:
    """It has every validation image once, and nothing beside the runs: intervals depend on both."""
    due, images = measurements(candidates), book.counts["validation"]
    if due.shape[2] != images:
        yield f"retrain/measured.npy: has {due.shape[2]} images, but there are {images}"
    elif not np.array_equal(due, np.asarray(book.measured), equal_nan=True):
        yield "retrain/measured.npy: holds what no run of the race has measured"


def _measured(candidate: Candidate) -> Iterator[str]:
    for trial, row in zip(candidate.runs, candidate.measured, strict=False):
        value, mean = (trial.result or {}).get("nelbo_nats", math.nan), float(np.mean(row))
        if not math.isclose(mean, value, rel_tol=SINGLE):
            yield (
                f"retrain/measured.npy: candidate {candidate.index}, seed {trial.number}: the mean"
                f" over images is {mean:.4f}, but the run ended at {value:.4f}"
            )


def _outputs(book: Book, candidates: list[Candidate], verdict: Verdict) -> Iterator[str]:
    folder, space, winner = book.paths.retrain, book.space, verdict.winner
    stated = json.loads(json.dumps(winner_record(book.best, candidates, verdict)))
    for change in changes(book.winner, stated):
        yield f"retrain/winner.json: {change} by the runs"
    due = model_record(space, book.manifest, winner.entry["parameters"])
    for change in changes(book.config, due):
        yield f"retrain/config.json: {change} by the winner"
    tables = {
        "candidates": candidates_table(candidates, verdict, list(space.searched)),
        "history": history_table(candidates),
    }
    for name, table in tables.items():
        text = (folder / f"{name}.csv").read_text()
        yield from different(f"retrain/{name}.csv", text, table.to_csv(index=False), CLOSE)
    yield from _weights(book, winner)


def _weights(book: Book, winner: Candidate) -> Iterator[str]:
    """The winner's weights are its best seed's, and there are as many as the run counted."""
    folder, seed = book.paths.retrain, best_seed(winner)
    model, kept = folder / "model.safetensors", folder / "seeds" / f"seed-{seed}.safetensors"
    if sha256(model) != sha256(kept):
        yield f"retrain/model.safetensors: is not seeds/seed-{seed}.safetensors, the winner's"
    result = winner.runs[seed].result or {}
    is_last = result.get("best_epoch") == result.get("epochs")
    if is_last and sha256(model) != sha256(folder / "last_epoch.safetensors"):
        yield "retrain/model.safetensors: is not last_epoch.safetensors, though that is the best"
    buffers = _buffers(book.config)
    if (count := _count(model, buffers)) != winner.weights:
        yield f"retrain/model.safetensors: holds {count} weights, but its run had {winner.weights}"
    left = result.get("files", {}).items()  # the run's own digests of its weights
    yield from (
        f"retrain/{name}: is not what seed {seed} of the winner left"
        for name, known in left
        if sha256(folder / name) != known
    )
    for run in winner.runs:
        own = folder / "seeds" / f"seed-{run.number}.safetensors"
        known = (run.result or {}).get("files", {}).get("model.safetensors")
        if known and sha256(own) != known:
            yield f"retrain/seeds/{own.name}: is not what its run left"


def _count(model: Path, buffers: set[str]) -> int:
    """The number of weights in a safetensors file: its JSON header has every shape."""
    with model.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return sum(
        math.prod(tensor["shape"])
        for name, tensor in header.items()
        if name != "__metadata__" and name not in buffers
    )


def _buffers(config: dict[str, Any]) -> set[str]:
    """What a file of weights holds that is not trained."""
    with torch.device("meta"):
        vae = build(tuple(config["shape"]), read_architecture(config), 0)
    return {name for name, _ in vae.named_buffers()}
