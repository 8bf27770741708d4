"""How a trial gets from state to state, and what becomes of its token and its strikes.

The token fences: a step that raises it takes the trial from whoever held it before. Strikes are
deaths of workers since the last epoch that was new.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from pipeline.results.states import FINISHED, State


class Step(NamedTuple):
    """What changes a trial: from one of `before` to one of `after`, and who may do it."""

    before: tuple[State | None, ...]  # None: there is no such trial yet
    after: tuple[State, ...]
    who: str
    token: int = 0  # what is added
    strikes: int | None = 0  # likewise; None: cleared

    def change(self, row: Any) -> dict[str, Any]:
        """The new values of the row's (or the table's) token and strikes, as far as they change."""
        changed = {"token": row.token + self.token} if self.token else {}
        if self.strikes is None:
            return {**changed, "strikes": 0}
        return {**changed, "strikes": row.strikes + self.strikes} if self.strikes else changed


OPEN = (State.RUNNING,)
HOLDER, CLAIMANT, WITNESS = "the lease's holder", "any worker", "whoever knows the owner's end"

START = Step((None,), OPEN, CLAIMANT, token=1)
TAKE_OVER = Step(OPEN, OPEN, CLAIMANT, token=1)  # the lease ran out, or was released
FAIL_KILLER = Step(OPEN, (State.FAILED,), CLAIMANT, token=1)  # after too many strikes
KEEP = Step(OPEN, OPEN, HOLDER)  # an epoch done again, the lease renewed
ADVANCE = Step(OPEN, OPEN, HOLDER, strikes=None)  # an epoch that is new
FINISH = Step(OPEN, FINISHED, HOLDER)
GIVE_BACK = Step(OPEN, OPEN, WITNESS, token=1)  # an end that was asked for
STRIKE = Step(OPEN, OPEN, WITNESS, token=1, strikes=1)  # a death
REOPEN = Step((*OPEN, *FINISHED), OPEN, "a person, when nobody holds a trial of the study",
              token=1, strikes=None)  # fmt: skip
