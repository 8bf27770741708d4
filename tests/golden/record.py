"""Records anew what short trainings compute and what searches propose: `make golden`.

What was recorded is only replaced under a raised number of its semantics, or by the same.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))  # where the tests' helpers are

import golden_curves
import golden_proposals
from golden_cases import Case, covering, readable

from pipeline.study.identity import PROPOSAL_SEMANTICS, TRAINING_SEMANTICS


def curves() -> None:
    """Cases stay what they are; new ones are added where a value is new."""
    old = _read(golden_curves.FILE)
    cases = covering([entry["case"] for entry in old["recorded"] if readable(entry["case"])])
    recorded = [{"case": case, "curve": golden_curves.compute(case)} for case in cases]
    now = golden_curves.arithmetic()
    if old.get("semantics") == TRAINING_SEMANTICS:
        known = {_key(entry["case"]): entry["curve"] for entry in old["recorded"]}
        for entry in recorded:
            case, exact = entry["case"], old["arithmetic"] == now
            then = known.get(_key(case), entry["curve"])
            if golden_curves.differences(case, then, entry["curve"], exact=exact):
                sys.exit(f"TRAINING_SEMANTICS is still {TRAINING_SEMANTICS}, but {_key(case)}"
                         " trains otherwise: raise it, or find the mistake")  # fmt: skip
    lines = [
        f'{{"case": {_key(entry["case"])},\n "curve": ['
        + ",\n  ".join(json.dumps(row) for row in entry["curve"])
        + "]}"
        for entry in recorded
    ]
    _write(golden_curves.FILE, TRAINING_SEMANTICS, now, "[\n" + ",\n".join(lines) + "\n]")


def proposals() -> None:
    """All searches and all pruners."""
    old = _read(golden_proposals.FILE)
    computed, now = golden_proposals.compute(), golden_proposals.arithmetic()
    if old.get("semantics") == PROPOSAL_SEMANTICS:
        for name, then in dict(old["recorded"]).items():
            exact = old["arithmetic"] == now
            if golden_proposals.differences(name, then, computed.get(name, []), exact=exact):
                sys.exit(f"PROPOSAL_SEMANTICS is still {PROPOSAL_SEMANTICS}, but `{name}` is"
                         " another search: raise it, or find the mistake")  # fmt: skip
    lines = [
        f"{json.dumps(name)}: [\n " + ",\n ".join(json.dumps(each) for each in found) + "]"
        for name, found in computed.items()
    ]
    text = "{\n" + ",\n".join(lines) + "\n}"
    _write(golden_proposals.FILE, PROPOSAL_SEMANTICS, now, text)


def _key(case: Case) -> str:
    return json.dumps(case)


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text()) if file.exists() else {"recorded": []}


def _write(file: Path, semantics: int, arithmetic: dict[str, str], recorded: str) -> None:
    head = f'{{"semantics": {semantics},\n"arithmetic": {json.dumps(arithmetic)},\n"recorded": '
    file.write_text(f"{head}{recorded}}}\n")
    print(file)


if __name__ == "__main__":
    curves()
    proposals()
