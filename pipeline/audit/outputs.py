"""All checks that need nothing but the outputs of a sweep and its space."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from pipeline.audit import data, digests, figures, search, winner
from pipeline.audit.book import Book, read_book
from pipeline.errors import UserError
from pipeline.paths import Paths
from pipeline.results.record import settings_of
from pipeline.settings.space import Space


@dataclass
class Audit:
    """What was looked at, what of it does not follow, and what is not there yet."""

    seen: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def look(self, what: str, check: Callable[[], Iterator[str]]) -> None:
        """Adds the findings of a check. Records that make no sense are a finding, not an error."""
        self.seen.append(what)
        try:
            self.findings += check()
        except (UserError, OSError) as error:
            self.findings.append(f"{what}: {error}")
        except Exception as error:  # whatever a forged record may set off in the replayed code
            problem = str(error).splitlines()[0] if str(error) else ""
            self.findings.append(f"{what}: cannot be recomputed: {type(error).__name__}: {problem}")


def audit_outputs(space: Space, paths: Paths, stages: tuple[str, ...]) -> Audit:
    """Recomputes all that follows from the files of these stages alone: no ledger, no MLflow."""
    return audit_book(space, read_book(paths, stages))


def audit_book(space: Space, book: Book) -> Audit:
    """All that follows from the outputs; `space` is that of the file as it is now."""
    audit = Audit()
    audit.look("digests and settings", lambda: digests.findings(book, space))
    audit.look("data", lambda: data.findings(book))
    audit.look(f"{len(book.trials)} trials", lambda: search.findings(book))
    if "retrain" in book.records:
        runs = sum(len(study["trials"]) for study in book.runs)
        audit.look(f"{runs} runs of {len(book.runs)} candidates", lambda: winner.findings(book))
    if "evaluate" in book.records:
        audit.look("test figures", lambda: figures.metrics(book))
    if "render" in book.records:
        audit.look("report", lambda: figures.page(book, _as_written(space, book.space)))
    return audit


def _as_written(space: Space, recorded: Space) -> Space:
    """The recorded space with the parameters in the order of the file, if they are the same.

    The report shows them in it, and tells a default that is written from one that is not.
    """
    same = settings_of(space)["parameters"] == settings_of(recorded)["parameters"]
    shown = {"fixed": space.fixed, "searched": space.searched} if same else {}
    return recorded.model_copy(update=shown)
