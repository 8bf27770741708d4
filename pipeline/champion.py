"""The winner of a sweep as a model version in MLflow's registry."""

from __future__ import annotations

import statistics

from pipeline.records import Sweep
from pipeline.results import Outputs, winner_digest, winner_model


def save_winner(sweep: Sweep) -> None:
    """Writes the winner as an MLflow model beside the other state, once it is measured."""
    from pipeline.tracking.model import save_model

    paths = sweep.paths
    if Outputs.read(paths, sweep.done).metrics is not None:
        weights, config = paths.retrain / "model.safetensors", paths.retrain / "config.json"
        save_model(winner_model(paths), weights, config)


def register_winner(sweep: Sweep, uri: str, run_ids: dict[str, str]) -> str:
    """Makes the winner a model version of the sweep's name; what that came to, in words."""
    from pipeline.tracking.registry import Score, Winner, register

    outputs = Outputs.read(sweep.paths, sweep.done)
    if outputs.metrics is None or outputs.winner is None or outputs.manifest is None:
        return ""
    run_id = run_ids.get(sweep.key(outputs.winner["study"]))
    if run_id is None or not winner_model(sweep.paths).exists():
        return ""
    values = outputs.winner["values_nelbo_nats"]
    score = Score(
        mean_nats=statistics.fmean(values),
        sd_nats=statistics.stdev(values) if len(values) > 1 else 0.0,
        seeds=len(values),
        data=outputs.manifest["sha256"],
        likelihood=sweep.space.model.likelihood,
    )
    winner = Winner(run_id, "model", winner_digest(sweep.paths), score)
    registration = register(uri, sweep.space.name, winner)
    alias = "champion" if registration.champion else "not the champion"
    return f"; model version {registration.version} ({alias}: {registration.reason})"
