"""What `list` prints: every sweep of the checkout in a line."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import UserError
from pipeline.files import read_json
from pipeline.paths import STAGES, Paths
from pipeline.results.record import checked
from pipeline.results.states import Kind
from pipeline.settings.machine import Machine
from pipeline.settings.space import load_space, space_names
from pipeline.study.storage.outages import PATIENCE_SECONDS
from pipeline.study.storage.readonly import reading

COLUMNS = ("sweep", "data", "state", "best", "winner", "size")


def list_text(root: Path, machine: Machine) -> str:
    """The sweeps as a table: best is the search's validation NELBO, winner the test NELBO."""
    at_work = _at_work(root, machine)
    rows = [COLUMNS, *(_row(root, name, at_work.get(name, 0)) for name in space_names(root))]
    if len(rows) == 1:
        return "no sweep yet: write search_spaces/NAME.yaml"
    return table(rows)


def table(rows: list[tuple[str, ...]]) -> str:
    """Rows in columns, the first one their titles; a shorter row is beside them."""
    whole = [row for row in rows if len(row) == len(rows[0])]
    widths = [max(map(len, column)) for column in zip(*whole, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip()
        for row in rows
    )


def _row(root: Path, name: str, workers: int) -> tuple[str, ...]:
    paths = Paths(root, name)
    try:
        space = load_space(root, name)
        return (
            name,
            space.data.name,
            f"{workers} at work" if workers else _state(paths),
            _nelbo(paths, paths.best),
            _nelbo(paths, paths.metrics),
            size([paths.runs / name]),
        )
    except UserError as error:
        return name, f"invalid: {error}"


def _state(paths: Paths) -> str:
    """The last of the stages that have run without a gap."""
    done = "new"
    telling = (paths.manifest, paths.best, paths.winner, paths.metrics, paths.report)
    for stage, file in zip(STAGES, telling, strict=True):
        if not file.exists():
            break
        done = f"{stage} done"
    return "complete" if done == "render done" else done


def _nelbo(paths: Paths, file: Path) -> str:
    if not file.exists():
        return "–"
    value = read_json(checked(paths, file))["nelbo_nats"]
    return "–" if value is None else f"{value:.2f}"


def _at_work(root: Path, machine: Machine) -> dict[str, int]:
    """How many trials of each sweep somebody holds. A ledger that is not there is not made."""
    with reading(machine, Paths(root, ""), PATIENCE_SECONDS) as ledger:
        return {
            name: sum(
                len(ledger.owners(study)) for kind in Kind for study in ledger.studies(name, kind)
            )
            for name in space_names(root)
        }


def size(places: list[Path]) -> str:
    """The bytes of files and folders, in MB; files that vanish meanwhile count nothing."""
    return f"{byte_count(places) / 1e6:.1f} MB"


def byte_count(places: list[Path]) -> int:
    """The bytes of files and of folders' files."""
    total = 0
    for place in places:
        for path in [place, *place.rglob("*")]:
            try:
                total += path.stat().st_size if path.is_file() and not path.is_symlink() else 0
            except FileNotFoundError:
                continue
    return total
