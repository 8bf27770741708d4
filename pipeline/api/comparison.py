"""Sweeps side by side, and what their winners' difference is, where that means something.

Test figures are shown; sweeps are told apart on the validation images, seed by seed and image by
image, as the candidates of one sweep are (`pipeline.study.confirmation.compare`): the test set
chooses nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import UserError
from pipeline.files import read_array, read_json
from pipeline.results.record import open_inputs
from pipeline.settings.own_files import SOURCES, with_digest
from pipeline.settings.space import Space
from pipeline.study.confirmation.compare import Difference, Matrix, difference

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.api.sweep import Sweep

TEST = ("nelbo_nats", "recon_nats", "kl_nats", "bits_per_dim", "iw_nll_nats", "mse_per_pixel",
        "active_units")  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """A sweep as it is compared."""

    name: str
    settings: dict[str, Any]  # what its figures depend on for being comparable
    winner: dict[str, Any]
    parameters: dict[str, Any]  # of the winner, fixed ones included, that its family reads
    metrics: dict[str, Any]
    trials: int
    measured: Matrix  # (seeds, images) validation NELBO of the winner, nats


@dataclass(frozen=True)
class Comparison:
    """The sweeps in the order in which they were named; the first is the one to compare with."""

    entries: list[Entry]

    def table(self) -> pd.DataFrame:
        """A row a sweep: validation and test figures in nats, the winner's size, its difference
        from the first sweep's winner (below 0: better) with a 95 % interval, or why there is none.
        """
        import pandas as pd

        return pd.DataFrame([self._row(entry) for entry in self.entries])

    def parameters(self) -> pd.DataFrame:
        """A row a sweep: the winner's hyperparameters, those alone that differ."""
        import pandas as pd

        settings = [entry.parameters for entry in self.entries]
        names = dict.fromkeys(name for setting in settings for name in setting)
        rows = [{name: _shown(setting.get(name)) for name in names} for setting in settings]
        table = pd.DataFrame(rows, index=[entry.name for entry in self.entries])
        return table.loc[:, table.nunique(dropna=False) > 1]

    def difference(self, name: str) -> Difference | str:
        """How much worse a sweep's winner is than the first sweep's, or why that has no answer.

        Raises UserError for a sweep that is not compared with the first.
        """
        first, *others = self.entries
        entry = next((each for each in others if each.name == name), None)
        if entry is None:
            names = ", ".join(each.name for each in others)
            raise UserError(f"{first.name} is compared with {names}, but got {name!r}: name one")
        for key, value in first.settings.items():
            if entry.settings[key] != value:
                return (
                    f"not comparable: {key} is {_shown(entry.settings[key])}, not {_shown(value)}"
                )
        return difference(entry.measured, first.measured)

    def _row(self, entry: Entry) -> dict[str, Any]:
        row = {
            "sweep": entry.name,
            "data": entry.settings["data"],
            "likelihood": entry.settings["likelihood"],
            "trials": entry.trials,
            "seeds": len(entry.measured),
            "validation_nelbo_nats": entry.winner["mean_nelbo_nats"],
            **{f"test_{name}": entry.metrics.get(name) for name in TEST},
            "weights": entry.winner["weights"],
        }
        gap = "" if entry is self.entries[0] else self.difference(entry.name)
        mean, low, high = (None,) * 3 if isinstance(gap, str) else (gap.mean, gap.low, gap.high)
        note = gap if isinstance(gap, str) else _verdict(gap)
        return {**row, "difference_nats": mean, "low_nats": low, "high_nats": high, "note": note}

    def __str__(self) -> str:
        """Both tables as a terminal shows them, and a sentence for each sweep after the first."""
        table = self.table().drop(columns=["difference_nats", "low_nats", "high_nats", "note"])
        lines = [table.to_string(index=False, na_rep="–", float_format="{:.4g}".format)]
        if not (differing := self.parameters()).empty:
            lines += ["", "parameters of the winners that differ", differing.to_string()]
        first = self.entries[0].name
        for entry in self.entries[1:]:
            lines += ["", self._sentence(entry, first)]
        return "\n".join(lines)

    def _sentence(self, entry: Entry, first: str) -> str:
        gap = self.difference(entry.name)
        if isinstance(gap, str):
            return f"{entry.name} and {first}: {gap}"
        by = f"{gap.mean:+.2f} nats"
        if not math.isnan(gap.low):
            by += f" (95 % interval {gap.low:+.2f} … {gap.high:+.2f})"
        return f"{entry.name} − {first}, validation NELBO: {by}: {_verdict(gap)}"


def compare(sweeps: Sequence[Sweep]) -> Comparison:
    """Reads what the stages have left. Raises UserError for what is missing or does not match."""
    names = [sweep.name for sweep in sweeps]
    if len(names) < 2:
        raise UserError(f"compare: takes two sweeps or more, but got {len(names)}: name them")
    if len(set(names)) < len(names):
        raise UserError(
            f"compare: {', '.join(names)}: a sweep is compared with others: name it once"
        )
    return Comparison([_entry(sweep) for sweep in sweeps])


def _entry(sweep: Sweep) -> Entry:
    space, paths = sweep.as_made, sweep.paths
    open_inputs("render", space, paths, "compare")  # all of one making
    manifest, winner = read_json(paths.manifest), read_json(paths.winner)
    seeds = len(winner["values_nelbo_nats"])
    return Entry(
        name=sweep.name,
        settings={"data": space.data.name, **_settings(space), "data_sha256": manifest["sha256"]},
        winner=winner,
        parameters=_parameters(space, winner["parameters"]),
        metrics=read_json(paths.metrics),
        trials=sum(read_json(paths.best)["trials"].values()),
        measured=read_array(paths.measured)[winner["candidate"], :seeds].astype(np.float64),
    )


def _parameters(space: Space, chosen: dict[str, Any]) -> dict[str, Any]:
    record, readers = space.record(chosen), space.kind.readers
    return {
        name: record[name]
        for name in space.kind.model_fields
        if (name in chosen or name not in space.searched)
        and record["family"] in readers.get(name, (record["family"],))
    }


def _settings(space: Space) -> dict[str, Any]:
    sources = space.section("model").get(SOURCES, {})
    return {**space.model.model_dump(), "likelihood": with_digest(space.model.likelihood, sources)}


def _verdict(gap: Difference) -> str:
    if math.isnan(gap.seed_error):
        return "a single seed cannot tell luck from merit: raise retrain.seeds"
    if math.isnan(gap.image_error):
        return "a single validation image says nothing of others: raise data.validation.fraction"
    if gap.high < 0:
        return "better beyond the noise of seeds and images"
    return "worse beyond the noise of seeds and images" if gap.low > 0 else "cannot be told apart"


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
