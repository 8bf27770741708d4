"""What tables say about the next sweep: each advice where it is due, and silence elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.figures import advice, winner_advice
from pipeline.settings.search_section import Search, Stop
from pipeline.study.search.sources import Source


def training(values: list[float], train: list[float] | None = None) -> pd.DataFrame:
    table = pd.DataFrame({"epoch": range(1, len(values) + 1), "nelbo_nats": values})
    return table.assign(train_nelbo_nats=train or values)


def trials(states: str) -> pd.DataFrame:
    """One trial a letter: complete, pruned or failed."""
    names = {"c": "complete", "p": "pruned", "f": "failed"}
    return pd.DataFrame({"number": range(len(states)), "state": [names[s] for s in states]})


def metrics(**changes: Any) -> dict[str, Any]:
    baselines = {"mean_image_nelbo_nats": 385.0, "pca_components": 16, "pca_mse_per_pixel": 0.02}
    own = {"nelbo_nats": 240.0, "mse_per_pixel": 0.01, "seeds": {"nelbo_nats_mean": 240.5}}
    return {**own, "baselines": baselines, **changes}


FALLING = [100.0 - epoch for epoch in range(20)]
SETTLED = [*FALLING[:10], *[91.5] * 10]


@pytest.mark.parametrize(
    ("values", "best", "said"),
    [
        (FALLING, 20, "best epoch is 20 of 20, and since epoch 18 the validation NELBO had fallen"
         " by 2.00 nats: it may not have been trained to its end; raise retrain.epochs"),
        (FALLING, 19, "best epoch is 19 of 20"),
        ([50.0], 1, ""),
        ([*FALLING[:18], 83.5, 90.0], 20, ""),  # its last weights were kept, which are no better
        (SETTLED, 10, ""),
        (SETTLED, None, ""),
    ],
)  # fmt: skip
def test_a_best_epoch_at_the_end(values: list[float], best: int | None, said: str) -> None:
    found = winner_advice.short_training(training(values), best, 20)
    assert [said in line for line in found] == [True] * bool(said)


def test_overfitting_is_a_gap_beside_the_gain() -> None:
    run = training([320.0, 285.0, 290.0], [310.0, 265.0, 240.0])
    (said,) = winner_advice.overfitting(run, 2, mean_image=385.0)
    assert said.startswith("At its best epoch the winner describes training images 20.00 nats")
    assert "20% of all that it gains" in said
    assert "weight_decay" in said
    assert winner_advice.overfitting(run, 1, mean_image=500.0) == []  # 10 of 180 nats
    assert winner_advice.overfitting(run, None, mean_image=280.0) == []  # worse than the mean image


def test_idle_latent_units() -> None:
    (said,) = winner_advice.idle_units(8, 32, warmed_up=False)
    assert said.startswith("8 of 32 latent units are active: lower latent_dim towards 8, or set kl")
    assert "lengthen the KL warm-up" in winner_advice.idle_units(0, 4, warmed_up=True)[0]
    assert winner_advice.idle_units(17, 32, warmed_up=False) == []
    assert winner_advice.idle_units(1, 1, warmed_up=False) == []


def test_baselines_that_are_nearly_as_good() -> None:
    (said,) = winner_advice.next_to_baselines(metrics(nelbo_nats=380.0))
    assert said.startswith(
        "The winner's test NELBO, 380.00 nats, is next to that of the train-mean"
    )
    (said,) = winner_advice.next_to_baselines(metrics(mse_per_pixel=0.0195))
    assert said.startswith("PCA with 16 components reconstructs test images as well")
    (said,) = winner_advice.next_to_baselines(metrics(mse_per_pixel=0.05))
    assert said.startswith("PCA with 16 components reconstructs test images better than the winner")
    assert winner_advice.next_to_baselines(metrics()) == []


def test_a_winner_that_is_worse_than_the_mean_image_is_not_called_next_to_it() -> None:
    (said,) = winner_advice.next_to_baselines(metrics(nelbo_nats=500.0))
    assert said.startswith("The winner's test NELBO, 500.00 nats, is above that of the train-mean")


def test_a_retraining_that_was_shorter_than_the_search_says_nothing_of_luck() -> None:
    winner = {"search_nelbo_nats": 238.0, "mean_nelbo_nats": 240.0}
    assert winner_advice.lucky_search(winner, (239.0, 241.0), searched=30, epochs=20) == []
    assert winner_advice.lucky_search(winner, (239.0, 241.0), searched=20, epochs=20)


def test_a_search_that_picked_a_lucky_run() -> None:
    winner = {"search_nelbo_nats": 238.0, "mean_nelbo_nats": 240.0}
    (said,) = winner_advice.lucky_search(winner, (239.0, 241.0), 6, 20)
    assert said.startswith(
        "In the search the winner had 238.00 nats, on fresh seeds 240.00 (239.00"
    )
    assert winner_advice.lucky_search(winner, (237.0, 243.0), 6, 20) == []
    assert winner_advice.lucky_search(winner, None, 6, 20) == []
    assert (
        winner_advice.lucky_search({**winner, "search_nelbo_nats": None}, (239.0, 241.0), 6, 20)
        == []
    )


def test_test_images_that_cost_more_than_chance_explains() -> None:
    winner = {"mean_nelbo_nats": 235.0}
    (said,) = winner_advice.worse_on_test(metrics(), winner, sd=70.0, images=(6000, 10_000))
    assert said.startswith("Test images cost 5.50 nats more than validation images, and chance"
                           " would explain 2.95")  # fmt: skip
    assert winner_advice.worse_on_test(metrics(), winner, sd=70.0, images=(600, 1000)) == []
    assert winner_advice.worse_on_test(metrics(), {"mean_nelbo_nats": 241.0}, 0.1, (9, 9)) == []


def test_candidates_that_are_all_equal() -> None:
    table = pd.DataFrame({"mean_nelbo_nats": [240.0, 240.1]})
    table = table.assign(best_or_equal=[True, True], winner=[False, True])
    (said,) = winner_advice.equal_candidates(table)
    assert said.startswith(
        "All 2 candidates are equal within the noise of seeds and images, so the"
    )
    assert "the winner was chosen by its size: the ranking" in said
    lowest = table.assign(winner=[True, False])  # and no larger than the other
    assert (
        "so the winner has the lowest mean perhaps by chance: the r"
        in winner_advice.equal_candidates(lowest)[0]
    )
    assert winner_advice.equal_candidates(table[:1]) == []
    assert winner_advice.equal_candidates(table.assign(best_or_equal=[True, False])) == []
    out = {"mean_nelbo_nats": [np.nan], "best_or_equal": [False], "winner": [False]}
    dropped = pd.concat([table, pd.DataFrame(out)])  # what is out was told apart
    assert winner_advice.equal_candidates(dropped) == []


def test_a_search_that_found_nothing_better_than_its_centre() -> None:
    table, began = trials("c" * 12), [Source.GIVEN, *[Source.DRAWN] * 11]
    (said,) = advice.centre_is_best(table, Search(), 0, began)
    assert said.startswith(
        "The winner is trial 0, the centre of the space, where the search begins"
    )
    assert "the 11 others found nothing better" in said
    assert advice.centre_is_best(table, Search(), 3, began) == []
    assert advice.centre_is_best(table, Search(sampler="random"), 0, began) == []
    assert advice.centre_is_best(table[:5], Search(), 0, began) == []  # too few to say
    assert advice.centre_is_best(table, Search(), None, began) == []


def test_a_trial_that_is_not_the_centre_is_not_called_so() -> None:
    table = trials("c" * 12)
    kept = [*[Source.KEPT] * 4, *[Source.PROPOSED] * 8]
    assert advice.centre_is_best(table, Search(), 0, kept) == []
    beyond_constraints = [Source.DRAWN] * 12
    assert advice.centre_is_best(table, Search(), 0, beyond_constraints) == []


def test_a_ranking_that_rests_on_few_complete_trials() -> None:
    (said,) = advice.mostly_pruned(trials("cc" + "p" * 10))
    assert said.startswith("10 of 12 trials were pruned, so the ranking and the importances rest on"
                           " 2 complete ones")  # fmt: skip
    assert advice.mostly_pruned(trials("cccccc" + "p" * 6)) == []
    assert advice.mostly_pruned(trials("cppp")) == []


def test_a_search_that_has_ranked_nothing() -> None:
    (said,) = advice.few_complete(trials("ccfp"), top=3)
    assert said.startswith("There are 2 ranked trials for 3 candidates: the search has ranked no")
    assert advice.few_complete(trials("cccc"), top=3) == []
    assert advice.few_complete(trials("ff"), top=3) == []  # the search fails, and says so
    assert advice.few_complete(trials(""), top=3) == []  # nothing was searched


def test_a_budget_that_was_gone_before_the_sampler_learned() -> None:
    search = Search(trials=24, total_epochs=30, epochs=5, startup_trials=10)
    (said,) = advice.never_learned(trials("c" * 8), search)
    assert said.startswith("tpe proposed none of the trials: search.total_epochs, 30, was used up"
                           " by 8 trials")  # fmt: skip
    stop = Search(trials=24, total_epochs=None, stop=Stop(patience=3))
    (said,) = advice.never_learned(trials("c" * 8), stop)
    assert said.startswith(
        "tpe proposed none of the trials: search.stop ended it after 8 trials, and"
    )
    (said,) = advice.never_learned(trials("c" * 8), Search(trials=8))
    assert "search.trials is 8" in said
    assert advice.never_learned(trials("c" * 20), search) == []
    assert advice.never_learned(trials("c" * 8), Search(trials=8, sampler="random")) == []
    assert advice.never_learned(trials(""), search) == []


def test_a_search_without_a_success_says_what_to_do() -> None:
    def said(states: str) -> list[str]:
        return advice.failures(trials(states).assign(reason="diverged"))

    assert said("cc") == []
    assert said("cf") == ["1 of 2 trials failed: diverged"]
    assert said("ff") == [
        "2 of 2 trials failed: diverged",
        "No trial has succeeded, so the winner is search.fallback, and the search has found"
        " nothing: narrow the ranges around it (a lower lr, if they diverged), search again.",
    ]
