"""What starts workers and knows of their end: processes of this host (`pool`), or Slurm."""

from __future__ import annotations

from typing import Protocol


class Launcher(Protocol):
    """Starts `python -m pipeline worker JOB` a number of times, and nothing else."""

    @property
    def note(self) -> str:
        """How the workers are, for people; empty: as expected."""

    def start(self) -> None:
        """Starts the workers, or finds those of the same job. Raises UserError."""

    def alive(self) -> int:
        """How many are at work, or will be; replaces the dead. Asked again and again.

        Raises WorkersKeepDying, and UserError for wrong input or surroundings.
        """

    def stop(self) -> None:
        """Asks all to finish their epoch and leave."""

    def kill(self) -> None:
        """Ends all at once."""
