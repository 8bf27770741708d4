"""The winner of a sweep as a model version in MLflow's registry."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING, Any

from pipeline.results.keys import HEADLINE
from pipeline.results.record import open_stage
from pipeline.settings.own_files import SOURCES, with_digest
from pipeline.study.confirmation.champion_rule import LEVEL, NEWCOMER_LEVEL, Sample, succeed
from pipeline.sync.mlflow_columns import params
from pipeline.sync.mlflow_runs import Sweep
from pipeline.sync.outputs import Outputs, description, model_place, winner_digest, winner_model

if TYPE_CHECKING:
    from pipeline.tracking.registry import Score

TEST = tuple(f"test_{name}" for name in HEADLINE)
FIGURE = "get-artifact?path=figures/reconstructions.png&run_uuid={}"


def save_winner(sweep: Sweep) -> None:
    """Writes the winner as an MLflow model beside the other state, once it is measured."""
    from pipeline.tracking.model import save_model

    paths = sweep.paths
    if Outputs.read(paths, sweep.done).metrics is not None:
        open_stage(paths, "retrain", ["model.safetensors", "config.json", "winner.json"])
        weights, config = paths.model, paths.config
        save_model(winner_model(paths), weights, config)


def register_winner(sweep: Sweep, uri: str, run_ids: dict[str, str]) -> str:
    """Makes the winner a model version of the sweep's name; what that came to, in words."""
    from pipeline.tracking.registry import Winner, register

    outputs = Outputs.read(sweep.paths, sweep.done)
    if outputs.metrics is None or outputs.winner is None or outputs.config is None:
        return ""
    if outputs.winner["study"] not in sweep.studies:  # another clone's ledger has it
        return ""
    run_id = run_ids.get(sweep.key(outputs.winner["study"]))
    if run_id is None:
        return (
            "; its study was deleted in MLflow: no new model version (`sync --rebuild` undoes it)"
        )
    if not winner_model(sweep.paths).exists():
        return ""
    score = _score(outputs.winner["values_nelbo_nats"], outputs.config)
    page = version_page(sweep, outputs, run_id)
    place, digest = model_place(sweep.paths), winner_digest(sweep.paths)
    setting = params(outputs.winner["parameters"])
    winner = Winner(run_id, place, digest, score, params=setting, page=page)
    registration = register(uri, sweep.space.name, winner, judge)
    alias = "champion" if registration.champion else "not the champion"
    return f"; model version {registration.version} ({alias}: {registration.reason})"


def version_page(sweep: Sweep, outputs: Outputs, run_id: str) -> str:
    """Markdown of a version: what it is of, its settings and figures, and its reconstructions."""
    assert outputs.winner is not None
    study, figures = outputs.winner["study"], outputs.figures()
    names = [name for name in ("validation_nelbo_nats", *TEST) if name in figures]
    rows = [f"| `{name}` | {figures[name]:.4f} |" for name in names]
    # Of the run of the study, which has it once it is drawn.
    drawn = f"![]({FIGURE.format(run_id)})"
    table = "\n".join(["| metric | value |", "|---|---|", *rows])
    return "\n\n".join([description(sweep.space, study, outputs), table, drawn])


def judge(champion: Score, newcomers: list[Score]) -> tuple[bool, str]:
    """Whether the last newcomer takes the champion's place, and the reason in words."""
    verdict = succeed(_sample(champion), [_sample(each) for each in newcomers])
    new = newcomers[-1]
    figures = (
        f"nelbo_nats {new.mean_nats:.2f} against {champion.mean_nats:.2f}"
        f" ({new.seeds} and {champion.seeds} seeds)"
    )
    if math.isnan(verdict.p_newcomer):
        return False, f"{figures}: single seeds tell nothing about their noise: raise retrain.seeds"
    one = f"p = {verdict.p_newcomer:.2g} for this one ({NEWCOMER_LEVEL} is asked for)"
    all_ = f"p = {verdict.p_all:.2g} for all {verdict.nights} newcomers ({LEVEL} is asked for)"
    said = "better" if verdict.better else "not better"
    return verdict.better, f"{figures} is {said} beyond seed noise: {one}, {all_}"


def _score(values: list[float], config: dict[str, Any]) -> Score:
    """What the winner has on its seeds, and what it was measured on, as its record says."""
    from pipeline.tracking.registry import NO_SIGMA, Score

    return Score(
        mean_nats=statistics.fmean(values),
        sd_nats=statistics.stdev(values) if len(values) > 1 else 0.0,
        seeds=len(values),
        data=config["data_sha256"],
        likelihood=with_digest(config["likelihood"], config.get(SOURCES, {})),
        sigma=NO_SIGMA if config["sigma"] is None else str(config["sigma"]),
    )


def _sample(score: Score) -> Sample:
    return Sample(score.mean_nats, score.sd_nats, score.seeds)
