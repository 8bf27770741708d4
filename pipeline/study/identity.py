"""What makes trials comparable: the identity of a study."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.results.states import Kind
from pipeline.seeds import digest
from pipeline.settings.hyperparameters import Value
from pipeline.settings.own_files import SOURCES
from pipeline.settings.space import Space

# Raise it when a change of the code changes what a trial computes: every study then forks.
TRAINING_SEMANTICS = 3
PROPOSAL_SEMANTICS = 3  # the same for what a search proposes and prunes


@dataclass(frozen=True)
class Study:
    """A series of trials whose results may be compared with each other."""

    id: str
    kind: Kind
    budget: int  # trials at most
    parallelism: int
    epochs: int  # a trial at most
    spec: dict[str, Any]
    total_epochs: int | None = None  # of all trials at most


def search_study(space: Space, data_sha256: str) -> Study:
    """The study of a sweep. Its identity leaves its budgets out: more trials extend it.

    With nothing to search it has no trials.
    """
    search = space.search.model_dump(exclude={"fallback", "stop", "observations"})
    trials, total_epochs = search.pop("trials"), search.pop("total_epochs")
    if space.search.is_blind and space.search.stop:
        search["stop"] = True  # nothing else would wait: the parts have other places on the clock
    budget = trials if space.searched else 0  # a single setting is the only candidate
    spec = {
        **_common(space, data_sha256),
        "proposal_semantics": PROPOSAL_SEMANTICS,
        "fixed": _settled(space),
        "searched": {name: domain.model_dump() for name, domain in space.searched.items()},
        "search": search,
    }
    if space.files("search"):
        search[SOURCES] = space.section("search")[SOURCES]
    if table := space.search.observations:
        spec["observations"] = table.sha256  # whatever its name
    id_ = f"{space.name}-{digest(spec)[:12]}"
    return Study(id_, Kind.SEARCH, budget, space.search.parallelism, space.search.epochs, spec,
                 total_epochs)  # fmt: skip


def candidate_study(space: Space, data_sha256: str, parameters: dict[str, Value]) -> Study:
    """The runs of one candidate: trial n is fresh seed n."""
    spec = {
        **_common(space, data_sha256),
        "parameters": space.hyperparameters(parameters).model_dump(),
        "objectives": space.search.objectives,  # the gate against broken models asks for them
        "epochs": space.retrain.epochs,
        "seed": space.search.seed,
    }
    id_ = f"{space.name}-{digest(spec)[:12]}"
    return Study(id_, Kind.CANDIDATE, space.retrain.seeds, space.retrain.seeds,
                 space.retrain.epochs, spec)  # fmt: skip


def changes(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """What differs between two specifications, as `key: old → new`."""
    found: list[str] = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if before == after:
            continue
        if key == SOURCES:
            names = sorted({*(before or {}), *(after or {})})
            files = [tuple(_sha256(each, name) for each in (before, after)) for name in names]
            found += [f"{n}: {b} → {a}" for n, (b, a) in zip(names, files, strict=True) if a != b]
        elif isinstance(before, dict) and isinstance(after, dict):
            found += changes(before, after, f"{prefix}{key}.")
        else:
            found.append(f"{prefix}{key}: {before} → {after}")
    return found


def _sha256(sources: dict[str, Any] | None, file: str) -> str:
    found = (sources or {}).get(file)
    return found["sha256"][:12] if found else "none"


def _common(space: Space, data_sha256: str) -> dict[str, Any]:
    return {
        "training_semantics": TRAINING_SEMANTICS,
        "data": data_sha256,
        "model": space.section("model"),
    }


def _settled(space: Space) -> dict[str, Value]:
    """Every hyperparameter that is not searched, with the defaults spelled out."""
    settled = space.kind.defaults() | space.fixed
    return {name: value for name, value in settled.items() if name not in space.searched}
