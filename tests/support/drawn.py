"""A sweep's files as the figures read them, made up: random images, untrained models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from recording import record_stages

from pipeline.figures import style
from pipeline.files import write_json, write_text
from pipeline.paths import Paths
from pipeline.settings.space import Space, parse_space
from pipeline.vae.checkpoint import save_weights
from pipeline.vae.model import build
from pipeline.vae.setting import read_architecture

PARAMETERS: dict[str, Any] = {
    "latent_dim": 3,
    "hidden": {"choices": [[8], [8, 4]]},
    "lr": {"low": 1.0e-4, "high": 1.0e-2, "log": True},
    "optimizer": {"choices": ["adam", "sgd"]},
    "momentum": {"low": 0.8, "high": 0.9, "when": {"optimizer": "sgd"}},
    "restore_best": {"choices": [True, False]},
    "patience": {"choices": [None, 3]},
}
TRIALS = """\
number,state,nelbo_nats,recon_nats,kl_nats,epochs,best_epoch,reason,hidden,lr,optimizer,momentum,restore_best,patience
0,complete,30.0,20.0,10.0,2,2,,[8],0.001,adam,,True,
1,pruned,40.0,31.0,9.0,1,1,,"[8, 4]",0.0001,sgd,0.85,False,3.0
2,failed,,,,0,,the loss is not <finite>,[8],0.01,sgd,0.9,True,3.0
3,complete,29.0,21.0,8.0,2,1,,[8],0.002,adam,,True,
4,complete,9000.0,8999.0,1.0,2,1,,[8],0.002,adam,,False,
"""
CURVE = "epoch,nelbo_nats,recon_nats,kl_nats,train_nelbo_nats,train_recon_nats,train_kl_nats,lr"


def a_space(**changes: Any) -> Space:
    raw = {
        "data": {"name": "digits"},
        "parameters": PARAMETERS,
        "search": {"epochs": 2},
        "render": {"points": 50, "images": 5, "prior_samples": 6, "grid_side": 4},
    }
    return parse_space("tiny", {**raw, **changes}, "tiny.yaml")


def write_sweep(root: Path, space: Space, shape: tuple[int, int, int]) -> Paths:
    """The files of the four earlier stages, with random images and untrained models."""
    paths = Paths(root, space.name)
    random = np.random.default_rng(0)
    paths.prepare.mkdir(parents=True)
    np.save(paths.prepare / "test_images.npy", random.integers(0, 256, (60, *shape), np.uint8))
    np.save(paths.prepare / "test_labels.npy", np.arange(60) % 3)
    (paths.prepare / "samples.png").write_bytes(style.png(style.figure("samples", 1)))
    manifest = {"shape": shape, "classes": ["$a", "<b>", "c" * 40], "sha256": "5a"}
    manifest["counts"] = {"train": 500, "validation": 50, "test": 60}
    write_json(paths.prepare / "manifest.json", manifest)
    write_text(paths.search / "trials.csv", TRIALS)
    rows = [f"{n},{e},{40 - e},{30 - e},10,41,31,10,0.001" for n in range(5) for e in (1, 2)]
    write_text(paths.search / "curves.csv", "\n".join([f"number,{CURVE}", *rows]))
    best: dict[str, Any] = {"study": "tiny-1", "number": 3}
    best["trials"] = {"complete": 3, "pruned": 1, "failed": 1}
    if len(space.search.objectives) == 2:
        best["pareto"] = [0, 3]
    write_json(paths.search / "best.json", best)
    parts = [
        {"number": n, "trial": n, "since": 0, "until": 2, "state": state, "curve": [{}] * epochs,
         "parameters": {}, "reason": None,
         "result": {"nelbo_nats": value} if value else None}
        for n, (state, value, epochs) in enumerate(
            [("complete", 30.0, 2), ("pruned", 40.0, 1), ("failed", None, 0),
             ("complete", 29.0, 2), ("complete", 9000.0, 2)]
        )
    ]  # fmt: skip
    write_json(paths.search / "study.json", [{"study": "tiny-1", "trials": parts}])
    write_retrain(paths, space, shape)
    metrics = {"nelbo_nats": 28.5, "recon_nats": 20.25, "kl_nats": 8.25, "bits_per_dim": 0.6421}
    metrics |= {"mse_per_pixel": 0.05, "active_units": 3}
    nested = {"first_epoch": {**metrics, "nelbo_nats": 41.5}, "seeds": {"nelbo_nats_sd": 0.25}}
    baselines = {"mean_image_nelbo_nats": 33.5, "pca_mse_per_pixel": 0.06, "pca_components": 3}
    write_json(paths.evaluate / "metrics.json", {**metrics, **nested, "baselines": baselines})
    record_stages(paths, space, "prepare", "search", "retrain", "evaluate")
    return paths


def write_retrain(paths: Paths, space: Space, shape: tuple[int, int, int]) -> None:
    chosen = {"hidden": [8], "lr": 0.002, "optimizer": "adam", "restore_best": True}
    record = {"shape": shape, **space.record(chosen)}
    paths.retrain.mkdir(parents=True)
    write_json(paths.retrain / "config.json", record)
    for seed, name in enumerate(("model", "first_epoch")):
        weights = build(shape, read_architecture(record), seed).state_dict()
        save_weights(paths.retrain / f"{name}.safetensors", weights)
    write_text(
        paths.retrain / "candidates.csv",
        "candidate,number,mean_nelbo_nats,low_nelbo_nats,high_nelbo_nats,difference_nats,"
        "low_difference_nats,high_difference_nats,seed_error_nats,image_error_nats,"
        "search_nelbo_nats,seeds,winner,lr,best_or_equal\n"
        "0,3,29.5,29.25,29.75,,,,,,29.0,2,True,0.002,True\n"
        "1,0,,,,,,,,,30.0,2,False,0.001,False\n"
        "2,1,29.8,29.5,30.1,0.3,-0.1,0.7,0.14,0.03,30.0,2,False,0.001,True\n",
    )
    rows = [f"{c},{s},{e},{40 - e},30,10,41,31,10,0.001,3" for c in (0, 1) for s in (0, 1)
            for e in (1, 2, 3)]  # fmt: skip
    history = "\n".join([f"candidate,seed,{CURVE},active_units", *rows])
    write_text(paths.retrain / "history.csv", history)
    winner = {"candidate": 0, "number": 3, "seed": 1, "parameters": chosen}
    standing = {"seeds": 2, "mean": 29.75, "behind": 0.0, "out": False}
    standing |= {"least": None, "least_at_end": None}
    behind = {"mean": 31.0, "behind": 1.25, "least": 0.75, "least_at_end": 0.5, "out": True}
    standings = [{"candidate": 0, **standing}, {**standing, "candidate": 4, **behind}]
    winner["race"] = [{"epoch": 2, "standings": standings, "level": 0.025}]
    write_json(paths.retrain / "winner.json", {**winner, "sentence": "0 & <script>1</script>"})
