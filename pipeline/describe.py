"""What `check` and `status` print."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.config import Machine, Space, load_space, space_names
from pipeline.hyperparameters import ONLY_FOR_FAMILY, Choices, Domain, Hyperparameters
from pipeline.paths import Paths


def describe(space: Space) -> str:
    """A valid search space in words: what is searched, what is fixed, every default."""
    lines = [f"search_spaces/{space.name}.yaml is valid.", ""]
    lines += ["searched hyperparameters:"] + [
        f"  {name:<21}{_domain(domain)}" for name, domain in space.searched.items()
    ]
    if not space.searched:
        lines.append("  none: the search has no trials")
    families = _families(space)
    lines += ["", "fixed hyperparameters (* by default):"]
    for name, field in Hyperparameters.model_fields.items():
        readers = ONLY_FOR_FAMILY.get(name, tuple(families))
        if name not in space.searched and families & set(readers):
            value = space.fixed.get(name, field.default)
            mark = "" if name in space.fixed else " *"
            lines.append(f"  {name:<21}{value}{mark}  ({field.description})")
    for section in ("data", "model", "search", "retrain", "evaluate", "render"):
        lines += ["", f"{section}:", *_section(getattr(space, section))]
    return "\n".join([*lines, "", _cost(space)])


def status_text(root: Path, machine: Machine, name: str | None) -> str:
    """Per sweep: trials by state, the best so far, who works on what, failures with reasons."""
    from pipeline.lag import lag_line
    from pipeline.study.ledger import Ledger, storage_url

    names = [name] if name else space_names(root)
    spaces = [load_space(root, each) for each in names]
    ledger = Ledger(storage_url(machine, Paths(root, "")))
    blocks = []
    for space in spaces:
        for kind in ("search", "candidate"):
            for study in ledger.studies(space.name, kind):
                blocks.append(_study_status(ledger, study, kind))
        blocks += filter(None, [lag_line(root, space, machine, ledger)])
    return "\n\n".join(blocks) or "no study yet: `python -m pipeline run NAME` or `dvc repro`"


def _study_status(ledger: Any, study: str, kind: str) -> str:
    trials = ledger.trials(study)
    states = ("running", "complete", "pruned", "failed")
    counts = ", ".join(f"{sum(t.state == s for t in trials)} {s}" for s in states)
    lines = [f"{kind} {study}: {len(trials)} {'trials' if kind == 'search' else 'runs'}: {counts}"]
    complete = [trial for trial in trials if trial.state == "complete"]
    if complete:
        best = min(complete, key=lambda trial: trial.result["nelbo_nats"])
        lines.append(f"  best: {best.number} with NELBO {best.result['nelbo_nats']:.2f} nats")
    for trial in trials:
        if trial.state == "running":
            owner = trial.owner or "nobody (it goes on with the next worker)"
            lines.append(f"  {trial.number}: {len(trial.curve)} epochs, held by {owner}")
        elif trial.state == "failed":
            lines.append(f"  {trial.number}: failed: {(trial.reason or '').splitlines()[0]}")
    return "\n".join(lines)


def _domain(domain: Domain) -> str:
    if isinstance(domain, Choices):
        text = " | ".join(str(choice) for choice in domain.choices)
    else:
        kind = "integer" if domain.integer else "real"
        scale = ", log scale" if domain.log else ""
        step = f", step {domain.step:g}" if domain.step else ""
        text = f"{domain.low:g} … {domain.high:g} ({kind}{scale}{step})"
    conditions = "; ".join(f"{name} = {wanted}" for name, wanted in domain.when.items())
    return f"{text}  only when {conditions}" if conditions else text


def _families(space: Space) -> set[str]:
    domain = space.searched.get("family")
    default = Hyperparameters.model_fields["family"].default
    return set(domain.grid()) if domain else {space.fixed.get("family", default)}


def _section(section: Any) -> list[str]:
    return [
        f"  {name:<21}{_value(value)}{'' if name in section.model_fields_set else ' *'}"
        for name, value in section
        if value is not None
    ]


def _value(value: Any) -> str:
    if hasattr(value, "model_dump"):
        return ", ".join(f"{key} {item}" for key, item in value.model_dump().items())
    return str(value)


def _cost(space: Space) -> str:
    search, retrain = space.search, space.retrain
    if not space.searched:
        most = retrain.seeds * retrain.epochs
        return f"at most {most} epochs: {retrain.seeds} seeds × {retrain.epochs}"
    whole = search.trials * search.epochs
    searched = min(whole, search.total_epochs or whole)
    most = searched + retrain.top * retrain.seeds * retrain.epochs
    trials = f"{search.trials} trials × {search.epochs}"
    if search.total_epochs == searched:
        trials = f"{searched} of the search"
    return (
        f"at most {most} epochs: {trials} + {retrain.top}"
        f" candidates × {retrain.seeds} seeds × {retrain.epochs}"
    )
