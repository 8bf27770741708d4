"""The winner among candidates: seed noise, ties, failures, and what is said about them."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from crews import Sweep, make_sweep, sweep
from recording import record_stages
from studies import space, trial

from pipeline.errors import UserError
from pipeline.files import write_json
from pipeline.settings.machine import Machine
from pipeline.stages import retrain
from pipeline.study.confirmation.race import Look, Standing
from pipeline.study.confirmation.winner import Candidate, choose
from pipeline.study.identity import Study, candidate_study
from pipeline.study.storage.engine import transaction
from pipeline.study.storage.schema import TRIALS

HARD = np.array([-30.0, 0.0, 30.0])  # how much harder than the mean every image is, for all alike


def candidate(index: int, values: list[float | None], weights: int = 100) -> Candidate:
    """A candidate whose runs ended with these validation NELBOs; None: the run failed."""
    parameters = {"beta": 1.0, "monitor": "total", "latent_dim": index + 1}
    runs = [
        trial(n, value, result={"nelbo_nats": value, "weights": weights})
        if value is not None
        else trial(n)
        for n, value in enumerate(values)
    ]
    entry = {"number": 10 + index, "nelbo_nats": 0.0, "parameters": parameters}
    measured = np.array([value for value in values if value is not None])[:, None] + HARD
    return Candidate(index, entry, candidate_study(space(), "d" * 64, parameters), runs, measured)


def test_the_lowest_mean_wins_beyond_noise_however_large_it_is() -> None:
    small = candidate(0, [30.0, 30.1, 29.9], weights=10)
    large = candidate(1, [25.0, 25.1, 24.9], weights=1000)
    verdict = choose([small, large])
    assert verdict.winner is large
    assert verdict.sentence == (
        "Candidate 1 is better than every other beyond the noise of 3 seeds: candidate 0 is worse"
        " than candidate 1 by 5.00 nats (95 % interval 4.77 … 5.23)."
    )


def test_within_noise_the_smallest_model_wins() -> None:
    large = candidate(0, [25.0, 25.4, 24.6], weights=1000)
    small = candidate(1, [25.1, 25.5, 24.7], weights=10)
    far = candidate(2, [40.0, 40.4, 39.6], weights=1)
    verdict = choose([large, small, far])
    assert (verdict.winner, verdict.leader, verdict.equals) == (small, large, [large, small])
    assert verdict.sentence == (
        "Candidates 0, 1 cannot be told apart on 3 seeds: candidate 1 is worse than candidate 0 by"
        " 0.10 nats (95 % interval -0.81 … 1.01). Candidate 1 wins as the smallest model."
    )


def test_a_small_model_does_not_tie_by_its_own_instability() -> None:
    large = candidate(0, [25.0, 25.1, 24.9], weights=1000)
    unstable = candidate(1, [24.0, 26.0, 31.0], weights=10)
    verdict = choose([large, unstable])
    assert verdict.winner is large
    assert verdict.sentence == (
        "Candidate 0 wins as the lowest mean, but cannot be told apart from candidate 1, whose"
        " seeds scatter more: candidate 1 is worse than candidate 0 by 2.00 nats (95 % interval"
        " -6.95 … 10.95)."
    )


def test_of_equals_the_lowest_mean_wins_then_the_first() -> None:
    noisy, better = candidate(0, [25.0, 26.0, 24.5]), candidate(1, [25.0, 26.0, 24.0])
    verdict = choose([noisy, better])
    assert verdict.winner is better
    assert verdict.sentence.endswith("wins as the lowest mean and no larger a model.")
    twins = [candidate(0, [25.0, 25.0]), candidate(1, [25.0, 25.0])]
    assert choose(twins).winner is twins[0]


def test_a_single_seed_knows_nothing_of_noise_and_says_so() -> None:
    verdict = choose([candidate(0, [25.0], weights=1), candidate(1, [24.9], weights=9)])
    assert verdict.winner.index == 1
    assert verdict.sentence == (
        "Candidate 1 has the lowest NELBO, on a single seed: whether it is better than the others"
        " is not known."
    )


def test_a_single_validation_image_knows_nothing_of_others_and_says_so() -> None:
    pair = [candidate(0, [25.0, 25.1], weights=1), candidate(1, [24.9, 25.0], weights=9)]
    verdict = choose([replace(each, measured=each.measured[:, :1]) for each in pair])
    assert verdict.winner.index == 1
    assert verdict.sentence == (
        "Candidate 1 has the lowest mean, on a single validation image: whether it is better than"
        " the others on other images is not known."
    )


def test_a_candidate_that_failed_on_a_seed_cannot_win() -> None:
    lucky = candidate(0, [20.0, None, 20.0])
    sound = candidate(1, [25.0, 25.1, 25.2])
    verdict = choose([lucky, sound])
    assert verdict.winner is sound
    assert verdict.sentence == "Candidate 1 is the only one that did not fail."
    assert lucky.mean == math.inf


def test_a_lone_candidate_is_called_so() -> None:
    assert choose([candidate(0, [25.0, 25.1])]).sentence == "Candidate 0 is the only one."


def test_when_all_failed_the_error_says_why() -> None:
    with pytest.raises(UserError) as caught:
        choose([candidate(0, [None, 25.0]), candidate(1, [None, None])])
    assert str(caught.value) == (
        "retrain: every candidate failed on some seed: the training loss is not finite in epoch 1:"
        " choose a tamer search space"
    )


def test_weights_that_someone_has_deleted_are_made_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make_sweep(tmp_path, sweep(retrain={"top": 1}))
    setting = {"lr": 0.02}
    assert made.worker(None, setting).work() == 0
    best = {"ranking": [{"number": 0, "nelbo_nats": 1.0, "parameters": setting}], "study": "tiny-0"}
    write_json(made.paths.search / "best.json", best)
    record_stages(made.paths, made.space, "search")
    retrain.run(made.space, made.machine(), made.paths)
    before = made.outputs("retrain")
    (study,) = made.candidates(setting)
    shutil.rmtree(made.paths.trial(study.id, 1))
    retrain.run(made.space, made.machine(), made.paths)
    assert made.outputs("retrain") == before
    assert "are not as the run left them: training it again" in capsys.readouterr().err


def another_host(made: Sweep, root: Path) -> Sweep:
    """A checkout on a host that shares nothing but the storage, and has the search's result."""
    other = make_sweep(root, sweep(retrain={"top": 1}))
    other.storage = made.storage
    shutil.copytree(made.paths.search, other.paths.search)
    return other


@pytest.fixture
def retrained(tmp_path: Path) -> Sweep:
    """A host that has retrained one candidate over a storage that others use too."""
    made = make_sweep(tmp_path / "one", sweep(retrain={"top": 1}))
    made.storage = f"sqlite:///{tmp_path}/shared.db"
    best = {"number": 0, "nelbo_nats": 1.0, "parameters": {"lr": 0.02}}
    write_json(made.paths.search / "best.json", {"ranking": [best], "study": "tiny-0"})
    record_stages(made.paths, made.space, "search")
    retrain.run(made.space, shared(made), made.paths)
    return made


def shared(made: Sweep) -> Machine:
    return made.machine().model_copy(update={"storage": made.storage})


def test_weights_travel_through_the_storage(
    retrained: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(*_: object) -> None:
        raise AssertionError("what another host has trained is not trained again")

    monkeypatch.setattr(retrain, "make_weights", train)
    other = another_host(retrained, tmp_path / "two")
    retrain.run(other.space, shared(other), other.paths)
    assert other.outputs("retrain") == retrained.outputs("retrain")


def made_by_east(made: Sweep, study: Study, **meta: object) -> None:
    """Has the runs made by another host, whose weights were too large for the storage."""
    ledger = made.ledger
    meta = ledger.trials(study.id)[0].meta | {"host": "east"} | meta
    with transaction(ledger._engine) as db:
        db.exec_driver_sql("DELETE FROM weights")
        db.execute(sa.update(TRIALS).values(meta=json.dumps(meta)))
    ledger.close()


def test_weights_too_large_for_the_storage_are_made_again_where_they_come_out_the_same(
    retrained: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = another_host(retrained, tmp_path / "two")
    (study,) = other.candidates({"lr": 0.02})
    made_by_east(retrained, study)
    retrain.run(other.space, shared(other), other.paths)
    assert other.outputs("retrain") == retrained.outputs("retrain")
    assert "are not in the storage, only on east: training it again" in capsys.readouterr().err


def test_weights_of_other_arithmetic_are_fetched_by_a_person(
    retrained: Sweep, tmp_path: Path
) -> None:
    other = another_host(retrained, tmp_path / "two")
    (study,) = other.candidates({"lr": 0.02})
    made_by_east(retrained, study, arithmetic={"cpu": "another"})
    folder = other.paths.trial(study.id, 0)
    with pytest.raises(UserError) as caught:
        retrain.run(other.space, shared(other), other.paths)
    assert str(caught.value) == (
        f"retrain tiny: only host east, which computes otherwise, has {folder}/*.safetensors: give"
        " the same command on east, and copy that folder from there, or"
        f" {other.paths.retrain}; if east is gone for good, another `retrain.epochs` in"
        " search_spaces/tiny.yaml has the candidates trained anew"
    )
    for number in range(study.budget):
        shutil.copytree(
            retrained.paths.trial(study.id, number), other.paths.trial(study.id, number)
        )
    for made in (retrained, other):  # both say of the runs how they were computed
        retrain.run(made.space, shared(made), made.paths)
    assert other.outputs("retrain") == retrained.outputs("retrain")


def test_runs_that_were_trained_in_full_before_change_no_byte_of_a_race(tmp_path: Path) -> None:
    raw = sweep(parameters={"patience": None}, retrain={"seeds": 3})
    settings = [{"lr": 0.02}, {"lr": 0.0005}]
    outputs = []
    for name in ("full", "raced"):
        made = make_sweep(tmp_path / name, raw)
        if name == "full":
            for setting in settings:  # alone, nothing is raced
                assert made.worker(None, setting).work() == 0
        ranking = [
            {"number": n, "nelbo_nats": 1.0, "parameters": p} for n, p in enumerate(settings)
        ]
        write_json(made.paths.search / "best.json", {"ranking": ranking, "study": "tiny-0"})
        record_stages(made.paths, made.space, "search")
        retrain.run(made.space, made.machine(2), made.paths)
        outputs.append(made.outputs("retrain"))
    full, raced = outputs
    assert [name for name in full if raced.get(name) != full[name]] == []
    said = json.loads(raced["retrain/winner.json"])["sentence"]
    assert "Candidate 1 was dropped after 5 epochs on 2 seeds: worse than candidate 0 by" in said
    winner, loser = (made.trials(study) for study in made.candidates(*settings))
    assert {(trial.state, len(trial.curve)) for trial in winner} == {("complete", 10)}
    assert [(trial.state, len(trial.curve)) for trial in loser] == [("paused", 5)] * 2
    assert not list(made.paths.study(loser[0].study).rglob("checkpoint-*"))


def test_a_race_says_who_was_dropped_and_what_its_looks_may_cost() -> None:
    """The dropped one cannot win, whatever it was worth there."""
    standings = [
        Standing(0, 2, 30.0, 0.0, None, None, False),
        Standing(1, 2, 33.2, 3.2, 1.1, 0.4, True),
    ]
    look = Look(10, standings)
    dropped = replace(candidate(1, [20.0, 20.0]), dropped=look)
    verdict = choose([candidate(0, [25.0, 25.1]), dropped], [look, look])
    assert verdict.winner.index == 0
    assert verdict.sentence == (
        "Candidate 0 is the only one that was trained to the end. Candidate 1 was dropped after 10"
        " epochs on 2 seeds: worse than candidate 0 by 3.20 nats, at least 1.10, and by at least"
        " 0.40 at the last epoch if both go on as they did. Of two candidates"
        " whose seeds scatter alike a rung takes the better one for the worse in at most 2.5 % of"
        " cases, 2 rungs in at most 5.0 %."
    )
    end = Look(20, [replace(each, least_at_end=None) for each in standings])
    verdict = choose([candidate(0, [25.0, 25.1]), dropped], [look, end])  # that one drops nobody
    assert verdict.sentence.endswith(
        "takes the better one for the worse in at most 2.5 % of cases."
    )
