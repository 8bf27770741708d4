"""The searches that `bench.search` compares ours with, on the same space, data and budget.

    python -m bench.peers {random,optuna,ray} {plain,ours} FOLDER --seed 0

FOLDER is a checkout in which `prepare fashion` has run; the search space and the epochs of a trial,
those of `retrain`, are read from its search_spaces/fashion.yaml. Early stopping is left out, and by
`plain`, the training loop that people write (bench/throughput.py), averaging, clipping and
`centered`, too; `ours` is the pipeline's. A trial that diverges ends. Every epoch of every trial
appends its validation NELBO in nats to FOLDER/progress. The search never ends by itself.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.paths import Paths
from pipeline.seeds import derive_seed
from pipeline.settings.hyperparameters import Choices, Domain
from pipeline.settings.space import Space, load_space

GRACE = 2  # epochs that ASHA leaves every trial
Report = Callable[[float], None]
Setting = dict[str, Any]


def domains(space: Space) -> dict[str, Domain]:
    return {name: domain for name, domain in space.searched.items() if name != "patience"}


def train(folder: Path, loop: str, setting: Setting, seed: int, report: Report) -> None:
    """One trial at full budget; `report` may end it with an exception."""
    import torch

    from pipeline.data.prepared import load_images

    torch.set_num_threads(1)
    space, prepare = load_space(folder, "fashion"), Paths(folder, "fashion").prepare
    config = space.record(setting)
    images, validation = load_images(prepare, "train"), load_images(prepare, "validation")
    epochs = plain_epochs if loop == "plain" else our_epochs
    for nelbo in epochs(images, validation, config, seed, space.retrain.epochs):
        with (folder / "progress").open("a") as file:
            file.write(f"{nelbo}\n")
        report(nelbo)


def our_epochs(images: Any, validation: Any, config: Setting, seed: int, count: int) -> Any:
    from pipeline.vae.process import prepare_process
    from pipeline.vae.setting import read_setting
    from pipeline.vae.training import Diverged, Training

    prepare_process()
    training = Training(images, validation, read_setting(config | {"patience": None}), seed, count)
    with contextlib.suppress(Diverged):
        while not training.finished:
            yield training.run_epoch()["nelbo_nats"]


def plain_epochs(images: Any, validation: Any, config: Setting, seed: int, count: int) -> Any:
    """Same architecture, schedule and validation figure, with DataLoader, ToTensor and .item()."""
    import torch
    from torch.utils.data import DataLoader

    from bench.throughput import Images, loss_of
    from pipeline.vae.measure import elbo
    from pipeline.vae.model import build
    from pipeline.vae.schedule import lr_factor
    from pipeline.vae.setting import read_setting
    from pipeline.vae.training import VALIDATION_SEED

    torch.manual_seed(seed)
    setting = read_setting(config)
    vae = build((1, 28, 28), setting.architecture, seed)
    steps = math.ceil(len(images) / setting.batch_size) * count
    optimizer = torch.optim.Adam(vae.parameters(), lr=setting.lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: lr_factor(setting, n, steps))
    loader = DataLoader(Images(images[:, 0]), batch_size=setting.batch_size, shuffle=True)
    for _ in range(count):
        vae.train()
        total = 0.0
        for x in loader:
            optimizer.zero_grad()
            loss = loss_of(vae, x)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        yield float(elbo(vae, validation, VALIDATION_SEED).nelbo_nats.mean())


def with_optuna(folder: Path, loop: str, seed: int, sampler: str) -> None:
    """Plain Optuna: TPE or random search, no pruning, one process."""
    import optuna

    from pipeline.study.search.sampler import distribution

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    samplers = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
    study = optuna.create_study(sampler=samplers[sampler](seed=seed))
    searched = domains(load_space(folder, "fashion"))
    distributions = {name: distribution(domain) for name, domain in searched.items()}
    while True:
        trial = study.ask(distributions)
        setting = {name: _decoded(searched[name], value) for name, value in trial.params.items()}
        values: list[float] = []
        train(folder, loop, setting, derive_seed(seed, trial.number), values.append)
        study.tell(trial, min(values, default=math.inf))


def with_ray(folder: Path, loop: str, seed: int) -> None:
    """Ray Tune with ASHA over random draws, one trial at a time."""
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    space = load_space(folder, "fashion")
    searched = domains(space)

    def trainable(drawn: Setting) -> None:
        setting = {name: _decoded(searched[name], value) for name, value in drawn.items()}
        train(folder, loop, setting, seed, lambda nelbo: tune.report({"nelbo_nats": nelbo}))

    ray.init(num_cpus=1, include_dashboard=False, logging_level=logging.ERROR)
    scheduler = ASHAScheduler(max_t=space.retrain.epochs, grace_period=GRACE)
    tune.Tuner(
        trainable,
        param_space={name: _ray_domain(domain) for name, domain in searched.items()},
        tune_config=tune.TuneConfig(
            metric="nelbo_nats",
            mode="min",
            scheduler=scheduler,
            num_samples=1000,
            max_concurrent_trials=1,
            reuse_actors=True,
            search_alg=tune.search.basic_variant.BasicVariantGenerator(random_state=seed),
        ),
        run_config=tune.RunConfig(storage_path=str(folder / "ray"), verbose=0),
    ).fit()


def _ray_domain(domain: Domain) -> Any:
    from ray import tune

    if isinstance(domain, Choices):
        return tune.choice([json.dumps(choice) for choice in domain.choices])
    if domain.step is not None or domain.integer:
        return tune.choice(domain.grid())
    return (tune.loguniform if domain.log else tune.uniform)(domain.low, domain.high)


def _decoded(domain: Domain, value: Any) -> Any:
    """Both libraries hold choices by their JSON text."""
    return json.loads(value) if isinstance(domain, Choices) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("search", choices=["random", "optuna", "ray"])
    parser.add_argument("loop", choices=["plain", "ours"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # of other libraries about themselves
    folder = options.folder.resolve()
    if options.search == "ray":
        with_ray(folder, options.loop, options.seed)
    else:
        sampler = "tpe" if options.search == "optuna" else "random"
        with_optuna(folder, options.loop, options.seed, sampler)


if __name__ == "__main__":
    main()
