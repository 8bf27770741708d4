"""Hand-made kept trials: a study of toy searches, and tables of them."""

from __future__ import annotations

from typing import Any

from pipeline.results.keys import CURVE, KEPT, PER_DIMENSION
from pipeline.settings.hyperparameters import Hyperparameters
from pipeline.study.identity import TRAINING_SEMANTICS
from pipeline.study.search.kept_table import Kept, Line, Origin

DATA = "d" * 64
SETTLED = Hyperparameters.defaults()


def origin(study: str = "old-0123456789ab", **changes: Any) -> Origin:
    fields: dict[str, Any] = {
        "study": study,
        "data": DATA,
        "model": {"likelihood": "bernoulli", "sigma": None},
        "sources": {},
        "epochs": 4,
        "objectives": ["nelbo_nats"],
        "training_semantics": TRAINING_SEMANTICS,
        "settled": SETTLED,
    }
    return Origin(**{**fields, **changes})


def epoch(number: int, nelbo: float) -> dict[str, Any]:
    values = dict.fromkeys(CURVE, 0.0)
    values |= {"nelbo_nats": nelbo, "recon_nats": nelbo - 1.0, "kl_nats": 1.0}
    return {"epoch": number, **values, PER_DIMENSION: [1.0]}


def kept(
    number: int = 0,
    values: tuple[float, ...] = (9.0, 7.0, 6.0, 5.0),
    state: str = "complete",
    of: Origin | None = None,
    **parameters: Any,
) -> Kept:
    """A trial with these NELBOs after its epochs."""
    curve = [epoch(each, value) for each, value in enumerate(values, start=1)]
    best = min(range(len(values)), key=lambda index: values[index]) if values else 0
    result: dict[str, Any] | None = None
    if state != "failed":
        result = {name: curve[best][name] for name in KEPT}
        result |= {"epochs": len(curve), "best_epoch": best + 1, "weights": 10}
    line = Line(
        study=(of or origin()).study,
        number=number,
        seed=100 + number,
        state=state,
        parameters=parameters,
        result=result,
        reason="diverged" if state == "failed" else None,
        arithmetic={"device": "cpu"},
        curve=curve,
    )
    return Kept(of or origin(), line)
