"""A sweep's search as a study of Optuna's own: by hand, and while it goes on."""

from __future__ import annotations

from pipeline.errors import UserError
from pipeline.paths import STAGES, Paths
from pipeline.results.record import prepared_sha256
from pipeline.settings.space import Space
from pipeline.study.export import Exported, export
from pipeline.study.identity import Study, search_study
from pipeline.study.search.plan import belonging
from pipeline.study.storage.ledger import Ledger
from pipeline.study.storage.outages import StorageAway
from pipeline.study.storage.rows import Mark, trials_of


def export_search(
    space: Space, study: Study, ledger: Ledger, url: str, *, live: bool = False
) -> Exported | None:
    """Writes what the ledger has of it; None: nothing yet. Raises UserError."""
    trials = trials_of(belonging(space, ledger.parts(study.id)))
    return export(space, study.id, trials, url, live=live) if trials else None


class LiveStudy:
    """Optuna's study of a search, brought up to date at each look. What it lacks is lag, no error:
    the ledger has it."""

    def __init__(self, space: Space, paths: Paths, ledger: Ledger, url: str):
        self._space, self._paths, self._ledger, self._url = space, paths, ledger, url
        self._written: tuple[bool, dict[int, Mark]] | None = None
        self._lacks = ""
        self._exported: Exported | None = None

    def look(self, done: str) -> bool:
        """Writes what has moved, if anything has; `done` is the last stage that has ended."""
        live = STAGES.index(done) < STAGES.index("search")
        try:
            study = search_study(self._space, prepared_sha256(self._paths))
            marks = self._ledger.marks(study.id)
            if (live, marks) == self._written or not marks:
                return False
            self._exported = export_search(self._space, study, self._ledger, self._url, live=live)
        except (UserError, StorageAway) as error:
            self._lacks = str(error)
            return True
        self._written, self._lacks = (live, marks), ""
        return True

    def text(self) -> str:
        """What came of it, in a line; empty if there was nothing to write."""
        name = self._space.name
        if self._lacks:
            return (
                f"{self._lacks}; nothing is lost, `python -m pipeline export {name} --optuna URL`"
                " goes on"
            )
        if self._exported is None:
            return ""
        return f"optuna {name}: {self._exported.trials} trials in {self._exported.study}"
