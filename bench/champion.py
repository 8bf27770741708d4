"""How often the registry's champion moves: by chance, and when newcomers are better.

    python -m bench.champion

Histories of nights: a champion on a few seeds, then every night a newcomer on as many, judged as
the registry judges it, until the alias moves. Seeds are normal with the noise that retrained
candidates were seen to have; nothing is trained.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench.hardware import table
from pipeline.study.confirmation.champion_rule import Sample, succeed

HISTORIES, NIGHTS, SEED = 500, 30, 0
NOISE = 0.25  # nats, of one seed
SCENES = (  # gain of every newcomer in nats, seeds, noise of the champion and of the newcomers
    (0.0, 3, NOISE, NOISE),
    (0.5, 3, NOISE, NOISE),
    (0.25, 3, NOISE, NOISE),
    (0.0, 5, NOISE, NOISE),
    (0.5, 5, NOISE, NOISE),
    (0.0, 2, NOISE, NOISE),
    (0.5, 2, NOISE, NOISE),
    (0.0, 3, NOISE, 0.1),
    (0.0, 3, 0.1, NOISE),
)


def main() -> None:
    """Prints the table of bench/README.md."""
    print(table([row(*scene) for scene in SCENES]))


def row(gain: float, seeds: int, noise: float, newcomers: float) -> dict[str, str]:
    found = moves(gain, seeds, noise, newcomers, HISTORIES, NIGHTS)
    within = {nights: sum(night <= nights for night in found) for nights in (1, 5, 10, NIGHTS)}
    return {
        "gain": f"{gain:.2f}",
        "seeds": str(seeds),
        "noise, champion": f"{noise:.2f}",
        "noise, newcomers": f"{newcomers:.2f}",
    } | {f"moved within {n}": f"{count / HISTORIES:.1%}" for n, count in within.items()}


def moves(
    gain: float, seeds: int, noise: float, newcomers: float, histories: int, nights: int
) -> list[int]:
    """The night of the first move of each history, beyond `nights` if there is none."""
    random = np.random.default_rng(SEED)
    found = []
    for _ in range(histories):
        champion = sample(random.normal(0.0, noise, seeds))
        values = random.normal(-gain, newcomers, (nights, seeds))
        found.append(first_move(champion, [sample(each) for each in values]))
    return found


def first_move(champion: Sample, newcomers: list[Sample]) -> int:
    """The night of the move, counted from 1."""
    for night in range(1, len(newcomers) + 1):
        if succeed(champion, newcomers[:night]).better:
            return night
    return len(newcomers) + 1


def sample(values: Sequence[float] | np.ndarray) -> Sample:
    return Sample(float(np.mean(values)), float(np.std(values, ddof=1)), len(values))


if __name__ == "__main__":
    main()
