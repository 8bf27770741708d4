"""A sweep: its settings, what came of it, and how to go on with it."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import Interrupted, UserError
from pipeline.files import read_json, read_table
from pipeline.paths import STAGES, Paths
from pipeline.results.record import checked, open_inputs, prepared_sha256
from pipeline.settings.space import Space, load_space

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from pipeline.figures.drawings import Drawings
    from pipeline.tracking.model import VaeModel

INTERRUPTED = 130


class Sweep:
    """One sweep of a checkout, seen as it is at each call: nothing is kept in between.

    What the stages left is checked against their records when it is read; what is missing or does
    not match is a UserError that says which stage to run.
    """

    def __init__(self, root: Path, name: str):
        self.paths = Paths(root, name)
        self.name = name

    def __repr__(self) -> str:
        return f"Sweep({self.name!r}) of {self.paths.root}"

    @property
    def space(self) -> Space:
        """The search space as its file is now. Raises UserError."""
        return load_space(self.paths.root, self.name)

    @property
    def as_made(self) -> Space:
        """The same with the budget of the outputs, which a deadline may have chosen."""
        from pipeline.work.budget_file import as_made

        return as_made(self.space, self.paths)

    def run(self, *stages: str, duration: str | None = None, until: str | None = None) -> None:
        """Runs these stages (default: all five) as the command line does, in processes of their
        own; what is finished is not done again, and what was interrupted goes on.

        `duration` ("90m") and `until` ("07:00") as `--for` and `--until`. Raises UserError with the
        line that the command line ends with, Interrupted if it was stopped.
        """
        options = [("--for", duration), ("--until", until)]
        limits = [word for name, value in options if value is not None for word in (name, value)]
        for stage in stages or ("run",):
            if stage not in (*STAGES, "run"):
                raise UserError(f"stage must be one of {', '.join(STAGES)}, but got {stage!r}")
            takes = stage in ("search", "retrain", "run")
            self._command(stage, self.name, *(limits if takes else []))

    def trials(self, *, live: bool = False) -> pd.DataFrame:
        """The trials of the search, a row each: state, NELBO and its parts, epochs, and the
        searched hyperparameters. `live`: as they are in the ledger now, those at work too."""
        if live:
            return self._live("trials")
        return read_table(checked(self.paths, self.paths.trials_table))

    def curves(self, *, live: bool = False) -> pd.DataFrame:
        """The learning curves of the search, a row for each trial and epoch."""
        if live:
            return self._live("curves")
        return read_table(checked(self.paths, self.paths.curves_table))

    def candidates(self) -> pd.DataFrame:
        """The retrained candidates with their intervals, a row each."""
        return read_table(checked(self.paths, self.paths.candidates_table))

    def history(self) -> pd.DataFrame:
        """The learning curves of the candidates, a row for each candidate, seed and epoch."""
        return read_table(checked(self.paths, self.paths.history_table))

    @property
    def best(self) -> dict[str, Any]:
        """The search's ranking: `number`, `nelbo_nats`, `parameters` of the best trials."""
        return self._json(self.paths.best)

    @property
    def winner(self) -> dict[str, Any]:
        """The winner among the candidates, and the sentence on how sure that is."""
        return self._json(self.paths.winner)

    @property
    def metrics(self) -> dict[str, Any]:
        """The winner on the test images; nats an image unless a name says otherwise."""
        return self._json(self.paths.metrics)

    def model(self) -> VaeModel:
        """The winner, on the CPU: encode, decode, reconstruct, sample, nelbo; `.module` is the
        torch module."""
        from pipeline.tracking.load import load_model

        return load_model(self.name, self.paths.root)

    @property
    def figures(self) -> list[str]:
        """The names that `figure` takes."""
        return self._drawings.names

    def figure(self, name: str) -> Figure:
        """A figure of the report, drawn anew. Raises UserError for a name that there is not."""
        return self._drawings.figure(name)

    @property
    def _drawings(self) -> Drawings:
        from pipeline.figures.drawings import Drawings
        from pipeline.vae.process import prepare_process

        space = self.as_made
        open_inputs("render", space, self.paths)
        prepare_process()
        return Drawings(space, self.paths)

    def _json(self, file: Path) -> dict[str, Any]:
        content: dict[str, Any] = read_json(checked(self.paths, file))
        return content

    def _live(self, table: str) -> pd.DataFrame:
        import pandas as pd

        from pipeline.settings.machine import load_machine
        from pipeline.study.identity import search_study
        from pipeline.study.search.plan import belonging
        from pipeline.study.storage.readonly import reading
        from pipeline.study.storage.rows import trials_of
        from pipeline.study.tables import curves_table, trials_table
        from pipeline.work.budget_file import as_worked_on

        space = as_worked_on(self.space, self.paths)
        study = search_study(space, prepared_sha256(self.paths))
        with reading(load_machine(self.paths.root), self.paths) as ledger:
            trials = trials_of(belonging(space, ledger.parts(study.id)))
        live = (
            curves_table(trials) if table == "curves" else trials_table(trials, [*space.searched])
        )
        return pd.read_csv(io.StringIO(live.to_csv(index=False)))  # the types of what is read back

    def _command(self, *words: str) -> None:
        """Runs a command of the pipeline in the checkout and prints what it says."""
        with subprocess.Popen(
            [sys.executable, "-m", "pipeline", *words],
            cwd=self.paths.root,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            assert process.stdout is not None
            last = ""
            for line in process.stdout:
                last = line.rstrip("\n")
                print(last)
        if process.returncode == INTERRUPTED:
            raise Interrupted(last)
        if process.returncode:
            raise UserError(last.removeprefix("error: "))
