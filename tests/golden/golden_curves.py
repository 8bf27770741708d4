"""What short trainings compute, to the last bit, and the arithmetic that it is computed with."""

from __future__ import annotations

from pathlib import Path

from golden_cases import EPOCHS, FIXED, Case
from trainings import digits, run, training

from pipeline.vae.measure import elbo
from pipeline.vae.process import arithmetic as of_trainings
from pipeline.vae.training import VALIDATION_SEED

FILE = Path(__file__).parent / "curves.json"
COLUMNS = ("recon_nats", "kl_nats", "train_recon_nats", "train_kl_nats", "lr")
# Of a value, or of 1 if that is more, on another arithmetic. The largest differences between
# torch's AVX-512 and its plain kernels were 2e-5 in fp32, 0.3 in bf16; conv_pool's more than 5e-4.
TOLERANCE = {"fp32": 5e-5, "bf16": 0.5}
ROUGH = {"fp32": 0.02, "bf16": 0.5}  # conv_pool: a maximum of nearly equal values may be another

Curve = list[list[float]]  # COLUMNS of every epoch, and last recon and KL of the kept weights


def compute(case: Case) -> Curve:
    """Trains a case on digits."""
    trained = run(training(epochs=EPOCHS, **FIXED, **case))
    rows = [[record[name] for name in COLUMNS] for record in trained.records]
    trained.model.load_state_dict(trained.kept_weights())
    kept = elbo(trained.model, digits()[1], VALIDATION_SEED).summary()
    return [*rows, [kept["recon_nats"], kept["kl_nats"]]]


def arithmetic() -> dict[str, str]:
    """What the last bits depend on: a study's trials have the same."""
    return of_trainings("cpu")


def differences(case: Case, then: Curve, now: Curve, *, exact: bool) -> list[str]:
    """The values that are not what was recorded, or without `exact` not near it."""
    if [len(row) for row in then] != [len(row) for row in now]:
        return [f"{len(now) - 1} epochs, recorded {len(then) - 1}"]
    tolerance = (
        0.0 if exact else (ROUGH if case["family"] == "conv_pool" else TOLERANCE)[case["precision"]]
    )
    return [
        f"{name} of {place}: {value!r}, recorded {recorded!r}"
        for place, old, new in zip(_places(then), then, now, strict=True)
        for name, recorded, value in zip(COLUMNS, old, new, strict=False)
        if not _near(recorded, value, tolerance)
    ]


def _places(curve: Curve) -> list[str]:
    return [*(f"epoch {epoch}" for epoch in range(1, len(curve))), "the kept weights"]


def _near(recorded: float, value: float, tolerance: float) -> bool:
    return recorded == value or abs(value - recorded) <= tolerance * max(1, abs(recorded))
