"""A training: what it computes, what it keeps, when it ends."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, distributions
from trainings import TRAIN, VALIDATION, digits, run, same, training

from pipeline.vae import steps
from pipeline.vae import training as fit
from pipeline.vae.measure import elbo, mean_image_nelbo, pixels
from pipeline.vae.schedule import kl_weight
from pipeline.vae.training import VALIDATION_SEED, Diverged, Training


class Spy:
    """Notes the images that a model encodes in training, and the noise and weights it uses."""

    def __init__(self, training: Training, monkeypatch: pytest.MonkeyPatch):
        self.batches: list[Tensor] = []
        self.noise: list[Tensor] = []
        encode, sample = training.vae.encode, steps.reparameterize

        def spied_encode(x: Tensor) -> tuple[Tensor, Tensor]:
            if training.vae.training:
                self.batches.append(x.clone())
            return encode(x)

        def spied_sample(mu: Tensor, log_var: Tensor, eps: Tensor) -> Tensor:
            self.noise.append(eps.clone())
            return sample(mu, log_var, eps)

        monkeypatch.setattr(training.vae, "encode", spied_encode)
        monkeypatch.setattr(steps, "reparameterize", spied_sample)


def script(monkeypatch: pytest.MonkeyPatch, values: list[float], recon: list[float] | None = None):
    """Makes the validation NELBOs (and their recon parts) the given ones, epoch by epoch."""
    parts = iter(zip(values, recon or values, strict=True))

    def measured(*_: object) -> SimpleNamespace:
        value, part = next(parts)
        summary = {"nelbo_nats": value, "recon_nats": part, "kl_nats": value - part}
        return SimpleNamespace(
            summary=lambda: summary,
            active_units=0,
            kl_per_dim=torch.zeros(1),
            mu_std=0.0,
            log_var_mean=0.0,
        )

    monkeypatch.setattr(fit, "elbo", measured)


def rows(images: Tensor) -> list[bytes]:
    return sorted(image.contiguous().numpy().tobytes() for image in images)


@pytest.mark.parametrize("family", ["mlp", "conv_stride", "conv_pool"])
@pytest.mark.parametrize("likelihood", ["bernoulli", "binarized", "gaussian"])
def test_learning_lowers_the_nelbo_of_unseen_digits(family: str, likelihood: str) -> None:
    learned = run(training(family=family, likelihood=likelihood, lr=5e-3, batch_size=32))
    for name in ("nelbo_nats", "train_nelbo_nats"):
        assert learned.records[-1][name] < learned.records[0][name] - 1


def test_a_longer_training_beats_the_mean_image() -> None:
    learned = run(training(lr=1e-2, batch_size=16, epochs=25))
    limit = mean_image_nelbo(learned.vae, *digits(), VALIDATION_SEED)
    assert learned.records[-1]["nelbo_nats"] < limit - 0.5
    assert learned.records[-1]["active_units"] > 0


@pytest.mark.parametrize("averaging", [None, 24])
def test_a_centered_training_starts_at_the_mean_of_its_own_images(averaging: float | None) -> None:
    """It does so before the first step, and so does the average of its weights."""
    centered = training(centered=True, averaging=averaging)
    train, _ = digits()
    mean = train.double().mean(0).float() / 255
    bias = centered.model.decoder.get_submodule("2").bias
    torch.testing.assert_close(bias, torch.logit(mean, eps=1e-4).flatten())
    first, plain = (t.run_epoch() for t in (centered, training(averaging=averaging)))
    assert first["nelbo_nats"] < plain["nelbo_nats"] - 1


def test_convolutions_have_no_bias_to_center() -> None:
    weights = training(family="conv_stride").vae.state_dict()
    assert same(weights, training(family="conv_stride", centered=True).vae.state_dict())


@pytest.mark.parametrize("name", ["adam", "adamw", "adamax", "rmsprop", "sgd"])
def test_every_optimizer_learns(name: str) -> None:
    lr = 1e-4 if name == "sgd" else 2e-3
    learned = run(training(optimizer=name, lr=lr, momentum=0.8, weight_decay=1e-3, batch_size=16))
    assert learned.records[-1]["train_nelbo_nats"] < learned.records[0]["train_nelbo_nats"] - 1


@pytest.mark.parametrize("family", ["mlp", "conv_stride", "conv_pool"])
def test_the_same_arguments_give_the_same_bytes(family: str) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = run(training(family=family, seed=7, epochs=2))
    assert torch.equal(torch.get_rng_state(), state)  # and whoever else draws is not disturbed
    torch.manual_seed(2)
    second = run(training(family=family, seed=7, epochs=2))
    assert first.records == second.records
    assert same(first.vae.state_dict(), second.vae.state_dict())
    other = run(training(family=family, seed=8, epochs=2))
    assert other.records[0]["nelbo_nats"] != first.records[0]["nelbo_nats"]


def test_every_image_is_used_once_an_epoch_in_a_new_order(monkeypatch: pytest.MonkeyPatch) -> None:
    observed = training(epochs=2)
    spy = Spy(observed, monkeypatch)
    run(observed)
    sizes = [len(batch) for batch in spy.batches]
    assert sizes == [64, 64, 64, 38] * 2  # the smaller last batch is not dropped
    first, second = torch.cat(spy.batches[:4]), torch.cat(spy.batches[4:])
    expected = rows(pixels(digits()[0]))
    assert rows(first) == expected
    assert rows(second) == expected
    assert not torch.equal(first, second)
    assert len(torch.cat(spy.noise).unique()) == pytest.approx(2 * TRAIN * 3, rel=0.01)


def test_a_batch_larger_than_the_data_is_all_of_them() -> None:
    record = training(batch_size=10_000, epochs=1).run_epoch()
    assert record["epoch"] == 1


@pytest.mark.parametrize("beta", [1.0, 0.25])
@pytest.mark.parametrize("batch_size", [TRAIN, 200])
def test_steps_follow_the_gradient_of_the_loss_written_by_hand(
    beta: float, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Binary cross-entropy summed over pixels plus beta times torch's own KL, mean over images.

    With batches of 200 the last one is the mean over its own 30 images.
    """
    stepped = training(
        optimizer="sgd", momentum=0.0, lr=1e-2, beta=beta, batch_size=batch_size, epochs=1
    )
    by_hand, spy = copy.deepcopy(stepped.vae), Spy(stepped, monkeypatch)
    record = stepped.run_epoch()
    recons, kls = [], []
    for x, eps in zip(spy.batches, spy.noise, strict=True):
        mu, log_var = by_hand.encode(x)
        posterior = distributions.Normal(mu, (log_var / 2).exp())
        logits = by_hand.decode(mu + posterior.stddev * eps)
        recon = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        kl = distributions.kl_divergence(posterior, distributions.Normal(0, 1)).sum()
        by_hand.zero_grad()
        ((recon + beta * kl) / len(x)).backward()
        with torch.no_grad():
            for weight in by_hand.parameters():
                assert weight.grad is not None
                weight.sub_(1e-2 * weight.grad)
        recons.append(recon.item())
        kls.append(kl.item())
    assert record["train_recon_nats"] == pytest.approx(sum(recons) / TRAIN, rel=1e-5)
    assert record["train_kl_nats"] == pytest.approx(sum(kls) / TRAIN, rel=1e-4)
    for expected, weight in zip(by_hand.parameters(), stepped.vae.parameters(), strict=True):
        torch.testing.assert_close(weight, expected, rtol=1e-4, atol=1e-5)


def test_training_figures_are_means_over_images_not_over_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A rate of (almost) zero: every batch is measured with the same weights."""
    frozen = training(lr=1e-30, epochs=1)
    before, spy = copy.deepcopy(frozen.vae), Spy(frozen, monkeypatch)
    record = frozen.run_epoch()
    mu, _ = before.encode(torch.cat(spy.batches))
    log_var = before.encode(torch.cat(spy.batches))[1]
    kl = distributions.kl_divergence(
        distributions.Normal(mu, (log_var / 2).exp()), distributions.Normal(0, 1)
    )
    assert record["train_kl_nats"] == pytest.approx(kl.sum(1).mean().item(), rel=1e-6)
    assert record["train_nelbo_nats"] == record["train_recon_nats"] + record["train_kl_nats"]


def test_the_record_holds_the_beta_1_validation_nelbo_whatever_beta_trains() -> None:
    trained = run(training(beta=0.1, epochs=1))
    parts = elbo(trained.vae, digits()[1], VALIDATION_SEED)
    record = trained.records[0]
    assert {key: record[key] for key in parts.summary()} == parts.summary()
    assert record["nelbo_nats"] == record["recon_nats"] + record["kl_nats"]
    assert len(parts.nelbo_nats) == VALIDATION


def test_binarized_images_are_drawn_anew_each_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = training(likelihood="binarized", lr=1e-30, batch_size=TRAIN, epochs=2)
    spy = Spy(drawn, monkeypatch)
    run(drawn)
    first, second = spy.batches
    assert set(first.unique().tolist()) == {0.0, 1.0}
    assert rows(first) != rows(second)
    grey = pixels(digits()[0]).mean().item()
    assert first.mean().item() == pytest.approx(grey, abs=0.02)


@pytest.mark.parametrize(
    ("changes", "rates"),
    [
        ({}, [1, 1, 1, 1]),
        ({"schedule": "cosine"}, [(1 + math.cos(math.pi * s / 16)) / 2 for s in (3, 7, 11, 15)]),
        ({"schedule": "plateau", "plateau_patience": 1}, [1, 1, 0.5, 0.25]),
    ],
    ids=["constant", "cosine", "plateau"],
)
def test_the_rate_follows_the_schedule(
    changes: dict[str, Any], rates: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """4 epochs of 4 steps; a record holds the rate of the last step of its epoch."""
    script(monkeypatch, [100.0, 100.0, 100.0, 100.0])
    records = run(training(lr=1e-3, **changes)).records
    assert [record["lr"] / 1e-3 for record in records] == pytest.approx(rates)


@pytest.mark.parametrize(
    ("changes", "values", "epochs", "kept"),
    [
        ({}, [3, 2, 4, 5], 4, 2),  # no patience: the whole budget
        ({"patience": 1}, [3, 2, 4, 1], 3, 2),  # ends with the first that is no better
        ({"patience": 0}, [3, 2, 4, 1], 3, 2),  # 0 means 1
        ({"patience": 2}, [3, 4, 2, 4, 4, 1], 5, 3),  # a better one starts the wait anew
        ({"patience": 2}, [3, 3, 3, 1], 3, 1),  # the same is no better
        ({"patience": 2, "min_delta": 0.5}, [3, 2.6, 2.5, 2.4], 3, 1),  # not by 0.5 in one epoch
        ({"patience": 2, "min_delta": 0.5}, [3, 2.7, 2.4, 2, 2], 5, 3),  # by 0.5 in two
        ({"patience": 1, "restore_best": False}, [3, 2, 4, 1], 3, 3),  # the last is kept
        ({"kl_warmup_epochs": 3}, [1, 2, 9, 8, 9], 5, 4),  # epochs 1 and 2 begin below beta
        ({"kl_warmup_epochs": 3, "patience": 1}, [1, 2, 9, 8, 9], 5, 4),
        ({"kl_warmup": 0.4}, [1, 2, 9, 8, 9], 5, 4),  # the same by share
        ({"kl_warmup": 1.0}, [1, 2, 9, 8, 9], 5, 5),  # no epoch counts: the last is kept
        ({"kl_warmup_epochs": 9, "patience": 1}, [1, 2, 9, 8, 9], 5, 5),
    ],
    ids=str,
)
def test_early_stopping_and_kept_weights(
    changes: dict[str, Any],
    values: list[float],
    epochs: int,
    kept: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script(monkeypatch, values)
    stopped = training(epochs=len(values), **changes)
    weights = []
    while not stopped.finished:
        stopped.run_epoch()
        weights.append(copy.deepcopy(stopped.vae.state_dict()))
    assert len(stopped.records) == epochs
    assert stopped.kept_epoch == kept
    assert same(stopped.kept_weights(), weights[kept - 1])
    assert same(stopped.first_weights, weights[0])


@pytest.mark.parametrize(("monitor", "kept"), [("total", 2), ("recon", 3)])
def test_the_monitor_decides_which_epoch_is_kept(
    monitor: str, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, [30, 20, 25], recon=[29, 18, 10])
    assert run(training(monitor=monitor, epochs=3)).kept_epoch == kept


def test_a_plateau_waits_for_the_end_of_the_kl_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, [1.0, 2.0, 3.0, 9.0, 8.0])
    waiting = training(schedule="plateau", plateau_patience=1, kl_warmup_epochs=4, epochs=5)
    assert run(waiting).course.plateau.factor == 1.0


def test_kl_warm_up_enters_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    used = []

    def spied(*arguments: Any) -> float:
        used.append(kl_weight(*arguments))
        return used[-1]

    monkeypatch.setattr(fit, "kl_weight", spied)
    run(training(kl_warmup_epochs=2, beta=0.5, epochs=3))
    assert used == [0.25] * 4 + [0.5] * 8


@pytest.mark.parametrize(
    "break_it",
    [
        pytest.param(lambda _: training(optimizer="sgd", lr=10, epochs=3), id="absurd rate"),
        pytest.param(
            lambda patch: script(patch, [20.0, float("nan")]) or training(), id="validation"
        ),
        pytest.param(
            lambda patch: script(patch, [20.0, float("inf")]) or training(), id="infinite"
        ),
    ],
)
def test_what_is_not_finite_has_diverged(
    break_it: Callable[[pytest.MonkeyPatch], Training], monkeypatch: pytest.MonkeyPatch
) -> None:
    diverging = break_it(monkeypatch)
    with pytest.raises(Diverged, match=r"is not finite in epoch \d"):
        run(diverging)
    assert all(torch.isfinite(torch.tensor(r["nelbo_nats"])) for r in diverging.records)
