"""What the figures compute: importance, advice, smoothing, mosaics, walks, projections."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.figures import advice, curves, images, latent, markup, passes, rungs, trials, walks
from pipeline.figures.importance import Importance, importance
from pipeline.settings.hyperparameters import Choices, Range
from pipeline.settings.search_section import Search


def many_trials(count: int) -> tuple[pd.DataFrame, trials.Domains]:
    """Trials whose NELBO depends on lr alone, but for a little noise."""
    random = np.random.default_rng(0)
    lr, idle = 10 ** random.uniform(-4, -2, count), random.integers(0, 3, count)
    nelbo = 100 + 10 * (np.log10(lr) + 3) ** 2 + random.normal(0, 0.01, count)
    table = pd.DataFrame({"number": range(count), "nelbo_nats": nelbo, "lr": lr, "filters": idle})
    domains: trials.Domains = {
        "lr": Range(low=1e-4, high=1e-2, log=True),
        "filters": Choices(choices=[16, 32, 64]),
    }
    return table.assign(state="complete", reason=None), domains


def first_parts(table: pd.DataFrame) -> pd.DataFrame:
    """Of trials that all ended at epoch 5."""
    values = table[["number", "nelbo_nats", "state"]].rename(columns={"number": "trial"})
    return values.assign(since=0, until=5, epochs=5)


def test_importance_finds_the_hyperparameter_that_matters() -> None:
    table, domains = many_trials(40)
    ranking = importance(table, domains, first_parts(table))
    assert isinstance(ranking, Importance)
    assert ranking.shares.index[0] == "lr"
    assert ranking.shares["lr"] > 0.9
    assert ranking.shares.sum() == pytest.approx(1)
    assert ranking.trusted
    assert advice.idle(ranking)[0].startswith("filters: explains")


def test_importance_refuses_few_trials_and_knows_when_it_learned_nothing() -> None:
    table, domains = many_trials(7)
    assert importance(table, domains, first_parts(table)).startswith("Importance needs at least 8")  # type: ignore[union-attr]
    table, domains = many_trials(30)
    table["nelbo_nats"] = np.random.default_rng(1).normal(size=30)
    ranking = importance(table, domains, first_parts(table))
    assert isinstance(ranking, Importance)
    assert not ranking.trusted
    assert advice.idle(ranking) == []


def test_advice_on_edges() -> None:
    domains: trials.Domains = {
        "lr": Range(low=1e-4, high=1e-2, log=True),
        "latent_dim": Range(low=4, high=16, integer=True),
        "filters": Choices(choices=[16, 32, 64]),
        "batch_size": Choices(choices=[64, 128]),
        "activation": Choices(choices=["relu", "silu", "leaky_relu"]),
        "momentum": Range(low=0.8, high=0.9),
    }
    row = {"number": 5, "lr": 1.02e-4, "latent_dim": 16, "filters": 1, "batch_size": 1}
    table = pd.DataFrame([{**row, "activation": 2, "momentum": np.nan}])
    assert advice.edges(table, domains, 5) == [
        "lr: the winner has 0.000102, at the lower end of 0.0001 … 0.01, log: widen it there.",
        "latent_dim: the winner has 16, at the upper end of 4 … 16: widen it there.",
    ]
    assert advice.edges(table, domains, None) == []


def test_figures_show_choices_among_numbers_ascending() -> None:
    """A file has the first to try first; an end of that order is no end of what was searched."""
    domains: trials.Domains = {
        "batch_size": Choices(choices=[256, 128, 512], when={"optimizer": "sgd"}),
        "lr": Choices(choices=[1e-2, 1e-3]),
        "activation": Choices(choices=["silu", "relu"]),
        "skip": Choices(choices=[True, False]),
        "averaging": Choices(choices=[24.0, None]),
    }
    shown = trials.ascending(domains)
    assert shown == domains | {
        "batch_size": Choices(choices=[128, 256, 512], when={"optimizer": "sgd"}),
        "lr": Choices(choices=[1e-3, 1e-2]),
    }
    table = pd.DataFrame([{"number": 0, "batch_size": 1, **dict.fromkeys(list(domains)[1:], 0)}])
    assert advice.edges(table, shown, 0) == []


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(-0.5, 1.5, "differ by 0.50 nats"), (0.1, 0.9, ""), (np.nan, np.nan, "raise retrain.seeds")],
)
def test_advice_on_seed_noise(low: float, high: float, said: str) -> None:
    table = pd.DataFrame(
        {
            "mean_nelbo_nats": [29.5, 29.0],
            "difference_nats": [0.5, np.nan],
            "low_difference_nats": [low, np.nan],
            "high_difference_nats": [high, np.nan],
            "image_error_nats": [0.1, np.nan],
        }
    )
    assert said in "".join(advice.seed_noise(table))
    assert bool(said) == bool(advice.seed_noise(table))
    if np.isnan(low):  # for another reason than a single seed
        assert advice.seed_noise(table.assign(image_error_nats=np.nan)) == []


def numbered(values: list[float], states: list[str] | None = None) -> pd.DataFrame:
    states = states or ["complete"] * len(values)
    table = pd.DataFrame({"number": range(len(values)), "nelbo_nats": values, "state": states})
    return table.assign(epochs=[1 if state in ("pruned", "paused") else 5 for state in states])


def parts(values: list[float], until: int = 2, **changes: Any) -> pd.DataFrame:
    """The first part of every trial."""
    rows = [
        {"number": n, "until": until, "state": "paused", "curve": [{}] * until,
         "result": {"nelbo_nats": value}, **changes}
        for n, value in enumerate(values)
    ]  # fmt: skip
    return rungs.parts_table(rows)


def test_advice_says_when_what_was_proposed_cannot_be_told_from_random_draws() -> None:
    """It is compared where all have been, whoever was promoted and won in the end."""
    search = Search(epochs=9)
    came = ["given", *["drawn"] * 10, *["proposed"] * 10]
    values = [0.0, *range(30, 40), *range(30, 40)]
    said = advice.random_as_well(parts([v + n / 100 for n, v in enumerate(values)]), came, search)
    assert said[0].startswith(
        "The 10 settings that tpe proposed cannot be told from the 10 random draws of the same"
        " search: after epoch 2, where all can be compared, a proposal is better than a draw in 45%"
        " of pairs (p = 0.66 if there were no difference)"
    )
    better = [*values[:11], *range(22, 32)]
    assert advice.random_as_well(parts(better), came, search) == []
    assert advice.random_as_well(parts(values[:17]), came[:17], search) == []  # too few to say
    assert advice.random_as_well(parts([]), [], search) == []
    later = pd.concat([parts(better), parts([0.0], since=2, until=9)], ignore_index=True)
    assert advice.random_as_well(later, came, search) == []


def test_advice_on_a_pruner_that_saved_nothing() -> None:
    search = Search(pruner="median", epochs=5, min_trials=4)
    kept = numbered([30.0] * 20)
    assert advice.idle_pruner(kept, search)[0].startswith(
        "The median pruner stopped 0 of 20 trials and saved 0% of the epochs"
    )
    halved = numbered([30.0] * 20, ["complete", "pruned"] * 10)  # 40 of 100 epochs saved
    assert advice.idle_pruner(halved, search) == []
    assert advice.idle_pruner(kept, Search(pruner="none")) == []
    assert advice.idle_pruner(kept, Search(pruner="rungs")) == []
    assert advice.idle_pruner(kept[:7], search) == []  # it had hardly anything to compare with


def test_advice_on_rungs_that_choose_nothing() -> None:
    search, values = Search(epochs=5, rungs=[1, 5]), [30.0] * 20
    kept, first = numbered(values), parts(values, 1)
    (said,) = advice.idle_rungs(kept, first, search)
    assert said.startswith("The rungs let 20 of 20 trials through and saved 0% of the epochs")
    (said,) = advice.idle_rungs(kept, parts(values, 5, state="complete"), search)
    assert said.startswith("No trial paused before its last epoch, 5: a KL warm-up lasts beyond")
    paused = numbered(values, ["paused"] * 20)
    (said,) = advice.idle_rungs(paused, first, search)
    assert said.startswith("No trial was trained to its last epoch, 5: none came further than the"
                           " rung at 1")  # fmt: skip
    halved = numbered(values, ["complete", "paused"] * 10)
    assert advice.idle_rungs(halved, first, search) == []
    assert advice.idle_rungs(kept[:7], first, search) == []
    assert advice.idle_rungs(kept, first, Search(epochs=1)) == []


def test_a_rung_counts_who_reached_it_and_who_went_on() -> None:
    records = [
        {"number": 0, "trial": 0, "since": 0, "until": 1, "state": "paused", "nelbo": 30.0},
        {"number": 1, "trial": 1, "since": 0, "until": 1, "state": "failed", "nelbo": None},
        {"number": 2, "trial": 0, "since": 1, "until": 3, "state": "complete", "nelbo": 28.0},
        {"number": 3, "trial": 2, "since": 0, "until": 1, "state": "paused", "nelbo": 29.0},
    ]
    made = rungs.parts_table(
        [{**r, "curve": [], "result": r["nelbo"] and {"nelbo_nats": r["nelbo"]}} for r in records]
    )
    assert rungs.rung_table([1, 3], made).to_numpy().tolist() == [
        [1, 3, 2, 1, 29.0],
        [3, 1, 1, 0, 28.0],
    ]
    assert rungs.at_first_rung(made)["nelbo_nats"].to_dict() == {0: 30.0, 2: 29.0}


def test_advice_counts_failures_by_reason() -> None:
    table = pd.DataFrame({"state": ["failed", "complete", "failed", "failed"],
                          "reason": ["b", None, "a", "a"]})  # fmt: skip
    assert advice.failures(table) == ["2 of 4 trials failed: a", "1 of 4 trials failed: b"]


def test_a_few_diverged_trials_do_not_stretch_the_axis() -> None:
    assert trials.ceiling(pd.Series([20.0, 21, 22, 23, 9000])) < 40
    assert trials.ceiling(pd.Series([20.0, 21, 22])) == 22
    assert trials.ceiling(pd.Series([20.0])) == 20


def test_moving_average_is_centred_and_keeps_the_ends() -> None:
    assert curves.smooth(pd.Series([1.0, 2, 6, 3]), 3).tolist() == [1.5, 3, 11 / 3, 4.5]


def test_representatives_take_turns_over_the_classes() -> None:
    labels = np.array([2, 2, 0, 1, 0, 2])
    assert images.representatives(labels, 5).tolist() == [2, 3, 0, 4, 1]


def test_mosaic_places_tiles_row_by_row_with_white_gaps() -> None:
    tiles = np.array([0.0, 0.25, 0.5], np.float32)[:, None, None, None] * np.ones((3, 1, 2, 2))
    picture = images.mosaic(tiles, columns=2)
    assert picture.shape == (5, 5, 3)
    assert picture[0, [0, 2, 3], 0].tolist() == [0, 1, 0.25]
    assert picture[3, [0, 3], 0].tolist() == [0.5, 1]


def test_grid_runs_right_and_up_through_the_chosen_dimensions() -> None:
    corners = walks.plane(walks.range_axis(3, 1.5), 4, (1, 3)).reshape(3, 3, 4)
    assert corners[0, 0].tolist() == [0, -1.5, 0, 1.5]
    assert corners[2, 2].tolist() == [0, 1.5, 0, -1.5]
    assert corners[1, 1].tolist() == [0, 0, 0, 0]


def test_quantile_axis_gives_every_tile_the_same_probability() -> None:
    below = [(1 + math.erf(z / math.sqrt(2))) / 2 for z in walks.quantile_axis(5)]
    assert below == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9])


def test_interpolations_keep_their_ends_and_the_arc_keeps_its_length() -> None:
    start, end = np.array([2.0, 0, 0]), np.array([0, 2.0, 0])
    for walk in (walks.linear, walks.spherical):
        path = walk(start, end, 5)
        np.testing.assert_allclose(path[[0, -1]], [start, end], atol=1e-12)
    arc = walks.spherical(start, end, 5)
    np.testing.assert_allclose(np.linalg.norm(arc, axis=1), 2)
    np.testing.assert_allclose(arc[2], [2**0.5, 2**0.5, 0])
    line = walks.linear(start, -start, 4)
    np.testing.assert_array_equal(walks.spherical(start, -start, 4), line)


def test_traversals_move_one_dimension_at_a_time() -> None:
    walk = walks.traversals(np.array([0.1, 0.2, 0.3]), np.array([2, 0]), 3, limit=2.0)
    assert walk[0].tolist() == [[0.1, 0.2, -2], [0.1, 0.2, 0], [0.1, 0.2, 2]]
    assert walk[1, :, 0].tolist() == [-2, 0, 2]


def test_kl_of_a_dimension_is_the_mean_of_the_closed_form() -> None:
    """KL(N(1, 1) || N(0, 1)) = 1/2, KL(N(0, e²) || N(0, 1)) = (e² − 3)/2, and the prior's is 0."""
    mu, log_var = np.array([[1.0, 0, 0], [1, 0, 0]]), np.array([[0.0, 2, 0], [0, 0, 0]])
    expected = [0.5, (math.e**2 - 3) / 4, 0]
    np.testing.assert_allclose(passes.Posterior(mu, log_var).kl(), expected, atol=1e-12)


def test_spread_of_a_linear_decoder_is_the_posterior_variance() -> None:
    identity = SimpleNamespace(
        decode=lambda z: z.reshape(-1, 1, 1, 2), likelihood=SimpleNamespace(mean=lambda out: out)
    )
    variance = np.array([[0.25, 4.0]], np.float32)
    posterior = passes.Posterior(np.array([[1.0, -1.0]], np.float32), np.log(variance))
    mean, spread = passes.spread(identity, posterior, np.array([0]), 20_000, seed=0)  # type: ignore[arg-type]
    np.testing.assert_allclose(mean.ravel(), [1, -1], atol=0.05)
    np.testing.assert_allclose(spread.ravel(), variance.ravel(), rtol=0.05)


def two_clusters() -> np.ndarray:
    random = np.random.default_rng(0)
    return random.normal(size=(60, 4)).astype(np.float32) + 20 * (np.arange(60) % 2)[:, None]


def separated(points: np.ndarray) -> bool:
    """Whether the two clusters stand further apart than their width."""
    halves = points[::2], points[1::2]
    gap = np.linalg.norm(halves[0].mean(0) - halves[1].mean(0))
    return bool(gap > 2 * max(half.std() for half in halves))


@pytest.mark.parametrize("method", ["pca", "tsne", pytest.param("umap", marks=pytest.mark.slow)])
def test_projections_repeat_and_keep_clusters_apart(method: str) -> None:
    points = latent.project(two_clusters(), method)
    assert points.shape == (60, 2)
    assert separated(points)
    np.testing.assert_array_equal(points, latent.project(two_clusters(), method))


def test_a_collapsed_posterior_projects_to_a_point() -> None:
    for method in ("pca", "tsne"):
        assert not latent.project(np.full((50, 3), 0.7, np.float32), method).any()


def test_tables_align_numbers_and_mark_the_winner() -> None:
    text = markup.table(["a", "b"], [["x<y", markup.Cell("1")], ["z", markup.Cell("2")]], winner=1)
    assert '<th class="number">b</th>' in text
    assert "<td>x&lt;y</td>" in text
    assert text.count("<tr class=winner>") == 1


def test_a_value_reads_the_same_in_tables_and_axes() -> None:
    domain = Choices(choices=[[8], [8, 4]], when={"family": "mlp"})
    assert trials.show_domain(domain) == "[8], [8, 4] (when family = mlp)"
    assert trials.show_position(1.0, domain) == json.dumps([8, 4])
    assert trials.show_position(float("nan"), domain) == "–"
