"""What `run`, `evaluate` and `render` end with: the result, where it is, what to do next."""

from __future__ import annotations

import math
from typing import Any

from pipeline.files import read_json
from pipeline.paths import Paths
from pipeline.settings.machine import Machine
from pipeline.settings.space import Space


def result_text(space: Space, machine: Machine, paths: Paths, last: str) -> str:
    """The result after the stage `last`, evaluate or render, from its files."""
    metrics = read_json(paths.metrics)
    winner = read_json(paths.winner)
    folder = f"runs/{space.name}"
    return "\n".join(
        [
            f"{space.name}: test NELBO {metrics['nelbo_nats']:.2f} nats an image = reconstruction"
            f" {metrics['recon_nats']:.2f} + KL {metrics['kl_nats']:.2f}"
            f" ({metrics['test_images']} images)",
            f"  {_seeds(metrics['seeds'])}; the train-mean image has"
            f" {metrics['baselines']['mean_image_nelbo_nats']:.2f}",
            f"  {winner['sentence']}",
            *([f"  report: {folder}/render/report.html"] if last == "render" else []),
            f"  model: {folder}/retrain/model.safetensors; in Python: from pipeline.tracking.load"
            f' import load_model; model = load_model("{space.name}")',
            f"  next: {_next(space, machine, last)}",
        ]
    )


def _seeds(seeds: dict[str, Any]) -> str:
    """The winning setting over its fresh seeds, with the 95 % t interval of the mean."""
    count, mean = seeds["count"], seeds["nelbo_nats_mean"]
    if count == 1:
        return "one seed: no interval (retrain.seeds: 3 gives one)"
    from scipy.special import stdtrit

    half = float(stdtrit(count - 1, 0.975)) * seeds["nelbo_nats_sd"] / math.sqrt(count)
    return (
        f"over {count} fresh seeds: mean {mean:.2f}, 95 % interval {mean - half:.2f} …"
        f" {mean + half:.2f}"
    )


def _next(space: Space, machine: Machine, last: str) -> str:
    if last == "evaluate":
        return f"python -m pipeline render {space.name}"
    advice = "the report's section Advice"
    if space.searched:
        advice += f"; more trials: raise search.trials in search_spaces/{space.name}.yaml and give"
        advice += " the same command"
    if machine.tracking == "none":
        return advice
    return f"{advice}; all runs side by side: python -m pipeline ui"
