"""One trial by itself: its sums, its learning rates, when it stopped and which epoch it keeps."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

from pipeline.results.keys import EPOCH, KEPT, OUTCOME, PARTS, PER_DIMENSION, TIMES, TRAIN
from pipeline.results.states import FINISHED, State
from pipeline.study.storage.rows import Part
from pipeline.vae.early_stopping import Played, play
from pipeline.vae.schedule import lr_factor
from pipeline.vae.setting import Setting

LATE = re.compile(r"(?:loss|NELBO) is not finite in epoch (\d+)")
BROKEN = re.compile(r"NELBO (\S+) is not below the train-mean image's (\S+) nats")
SOMETIMES = ("mean_image_nelbo_nats", "files")  # of a trial's result, beside its outcome
ROUNDED = 5e-5  # of kl_per_dim, which has four decimals
SINGLE = 1e-5  # relative error of sums in single precision


def findings(
    setting: Setting, epochs: int, images: int, trial: Part, until: int = 0
) -> Iterator[str]:
    """What does not follow within a training of at most `epochs` epochs on `images` images, of
    which this is the part up to the epoch `until`."""
    if trial.state not in FINISHED:
        yield f"state {trial.state}: must be one of {', '.join(FINISHED)}"
        return
    for number, record in enumerate(trial.curve, start=1):
        yield from _epoch(setting, number, record)
    played = play(setting, epochs, trial.curve)
    steps = math.ceil(images / setting.batch_size)
    for record, plateau in zip(trial.curve, played.factors, strict=True):
        last = record["epoch"] * steps - 1
        lr = setting.lr * plateau * lr_factor(setting, last, steps * epochs)
        if not math.isclose(record["lr"], lr, rel_tol=1e-12):
            yield f"epoch {record['epoch']}: lr {record['lr']:g} is not the schedule's {lr:g}"
    if early := [number for number, over in enumerate(played.over[:-1], 1) if over]:
        yield f"goes on after epoch {early[0]}, where early stopping or the budget ends it"
    over = bool(played.over) and played.over[-1]
    if trial.state == State.COMPLETE and not over:
        yield f"complete after {len(trial.curve)} epochs, but nothing has ended it there"
    if trial.state == State.PAUSED and (over or len(trial.curve) != until):
        yield f"paused after {len(trial.curve)} epochs, but its rung is at {until}"
    if 0 < until < len(trial.curve):
        yield f"goes on after epoch {until}, its rung"
    if trial.state == State.PRUNED and over:
        yield "pruned, but early stopping or the budget had ended it"
    yield from _result(trial, played)
    yield from _reason(trial, played)


def _epoch(setting: Setting, number: int, record: dict[str, Any]) -> Iterator[str]:
    if strange := record.keys() - set(EPOCH) | record.keys() & set(TIMES):
        yield f"epoch {number}: {', '.join(sorted(strange))} is nothing that is recorded of one"
    if record["epoch"] != number:
        yield f"epoch {record['epoch']} stands where epoch {number} belongs"
    for prefix in ("", TRAIN):
        total, recon, kl = (record[prefix + part] for part in PARTS)
        if total != recon + kl:
            yield f"epoch {number}: {prefix}nelbo_nats {total} is not {recon} + {kl}"
    parts, latents = record[PER_DIMENSION], setting.architecture.latent_dim
    if len(parts) != latents:
        yield f"epoch {number}: kl_per_dim has {len(parts)} of {latents} dimensions"
    slack = ROUNDED * len(parts) + SINGLE * abs(record["kl_nats"])
    if abs(sum(parts) - record["kl_nats"]) > slack:
        yield f"epoch {number}: kl_nats {record['kl_nats']:g} is not the sum of kl_per_dim"
    if not 0 <= record["active_units"] <= latents:
        yield f"epoch {number}: active_units {record['active_units']} of {latents}"


def _result(trial: Part, played: Played) -> Iterator[str]:
    if trial.state == State.FAILED:
        if trial.result is not None:
            yield "failed, but has a result"
        return
    if trial.result is None or not trial.curve:
        yield f"{trial.state}, but has no result or no epoch"
        return
    if strange := trial.result.keys() - {*OUTCOME, *SOMETIMES}:
        yield f"result: {', '.join(sorted(strange))} is nothing that is recorded of one"
    kept = trial.curve[played.kept[-1] - 1]
    due = {key: kept[key] for key in KEPT}
    due |= {"epochs": len(trial.curve), "best_epoch": played.kept[-1]}
    for key, value in due.items():
        if trial.result.get(key) != value:
            yield f"result.{key} is {trial.result.get(key)}, but its curve says {value}"
    limit = trial.result.get("mean_image_nelbo_nats")  # of a model that was trained too little
    if limit is not None and kept["nelbo_nats"] < limit:
        yield f"is said to be trained too little, but is below the train-mean image's {limit}"


def _reason(trial: Part, played: Played) -> Iterator[str]:
    reason = trial.reason or ""
    if bool(reason) != (trial.state == State.FAILED):
        yield f"{trial.state} with reason {trial.reason!r}: a failure has one, and nothing else"
    late = LATE.search(reason)
    if late and int(late[1]) != len(trial.curve) + 1:
        yield f"failed in epoch {late[1]}, but has {len(trial.curve)} epochs"
    if late and played.over and played.over[-1]:
        yield f"failed in epoch {late[1]}, but epoch {len(trial.curve)} was its last"
    broken = BROKEN.search(reason)
    if broken and trial.curve:
        value, limit = broken.groups()
        if f"{trial.curve[played.kept[-1] - 1]['nelbo_nats']:.2f}" != value:
            yield f"failed with NELBO {value}, but its curve has another"
        if float(value) < float(limit):
            yield f"failed for NELBO {value}, which is below {limit}"
