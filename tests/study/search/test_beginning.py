"""Which kept trials count in a search, and what a search makes of them."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kept_trials import DATA, SETTLED, kept, origin
from ledgers import open_ledger
from searches import outcome, plan, proposer, search, toy_space, toy_study

from pipeline.errors import UserError
from pipeline.files import sha256_of
from pipeline.paths import Paths
from pipeline.results.states import Kind
from pipeline.settings.observations import Observations
from pipeline.settings.own_files import Source as OwnSource
from pipeline.settings.space import Space
from pipeline.study.search.beginning import Beginning, beginning, counted
from pipeline.study.search.kept_table import Kept, table_text
from pipeline.study.search.plan import Planner
from pipeline.study.search.sampler import centre
from pipeline.study.search.sources import Source, sources
from pipeline.study.storage.arithmetic import OtherArithmetic
from pipeline.study.storage.claim import Claimant
from pipeline.study.storage.ledger import Ledger
from pipeline.study.storage.reopen import to_reopen
from pipeline.study.storage.rows import trials_of
from pipeline.study.watch import Watch

LR: dict[str, Any] = {"lr": {"low": 1e-3, "high": 1e-1, "log": True}}
BOTH = {**LR, "latent_dim": {"low": 4, "high": 16}}


def space(parameters: dict[str, Any] = LR, **changes: Any) -> Space:
    return toy_space(parameters, **{"epochs": 4, "rungs": [1, 2, 4], **changes})


def begun(trials: list[Kept], its: Space, breaks: float = 1.0) -> Beginning:
    return counted(its, "toy", trials, lambda chosen: chosen["lr"] < breaks, lambda _: 10)


class TestFits:
    def test_a_value_in_a_narrower_range(self) -> None:
        found = begun([kept(0, lr=0.01), kept(1, lr=0.5), kept(2, lr=0.1)], space())
        assert [trial.parameters for trial in trials_of(found.parts)] == [{"lr": 0.01}, {"lr": 0.1}]
        assert found.left_out == {"lr": 1}
        assert found.text() == "2 of 3 kept trials count (not 1 for lr)"

    def test_what_was_searched_and_is_fixed_by_now_the_other_way_round_and_defaults(self) -> None:
        trials = [kept(0, lr=0.01, latent_dim=8), kept(1, lr=0.01), kept(2, lr=0.02, beta=2.0)]
        fixed = begun(trials, space({**LR, "latent_dim": 8}))
        assert [trial.parameters for trial in trials_of(fixed.parts)] == [{"lr": 0.01}]
        assert fixed.left_out == {"latent_dim": 2}
        both = begun(trials, space(BOTH))
        chosen = [trial.parameters for trial in trials_of(both.parts)]
        assert chosen == [{"latent_dim": 8, "lr": 0.01}, {"latent_dim": 16, "lr": 0.01}]
        assert both.left_out == {"beta": 1}

    def test_what_another_family_reads_does_not_matter(self) -> None:
        its = space({**LR, "filters": 8, "family": {"choices": ["mlp", "conv_stride"]}})
        found = begun([kept(0, lr=0.01), kept(1, lr=0.01, family="conv_stride")], its)
        assert (found.trials, found.left_out) == (1, {"filters": 1})

    def test_what_a_family_that_is_gone_declared_does_not_matter(self) -> None:
        assert begun(
            [kept(0, of=origin(settled=SETTLED | {"width": 7}), lr=0.01)],
            space(),
        ).trials

    def test_a_conditional_one_where_it_exists(self) -> None:
        momentum = {"low": 0.1, "high": 0.5, "when": {"optimizer": "sgd"}}
        its = space({**LR, "optimizer": {"choices": ["adam", "sgd"]}, "momentum": momentum})
        trials = [
            kept(0, lr=0.01),
            kept(1, lr=0.01, optimizer="sgd", momentum=0.3),
            kept(2, lr=0.01, optimizer="sgd", momentum=0.8),
        ]
        found = begun(trials, its)
        chosen = [trial.parameters for trial in trials_of(found.parts)]
        assert chosen == [
            {"optimizer": "adam", "lr": 0.01},
            {"optimizer": "sgd", "lr": 0.01, "momentum": 0.3},
        ]

    def test_constraints(self) -> None:
        found = begun([kept(0, lr=0.01), kept(1, lr=0.05)], space(), breaks=0.02)
        assert (found.trials, found.left_out) == (1, {"search.constraints": 1})

    def test_an_own_family_of_the_same_file_alone(self) -> None:
        own = origin(sources={"a.py": "f" * 64})
        assert begun([kept(0, of=own, family="a.py:B", lr=0.01)], space()).left_out == {"family": 1}

    def test_an_own_likelihood_of_the_same_file_alone(self) -> None:
        its = space()
        model = its.model.model_copy(update={"likelihood": "a.py:B"})
        text = "class B: ..."
        digest = hashlib.sha256(text.encode()).hexdigest()
        read = {"a.py": OwnSource(text=text, sha256=digest)}
        its = its.model_copy(update={"model": model, "sources": read})
        same, other = (origin(sources={"a.py": each}) for each in (digest, "f" * 64))
        found = begun([kept(0, of=same, lr=0.01), kept(1, of=other, lr=0.02)], its)
        assert (found.trials, found.left_out) == (1, {"likelihood": 1})

    @pytest.mark.parametrize(
        ("state", "epochs", "search", "counts"),
        [
            ("paused", 2, {}, True),
            ("paused", 1, {"rungs": [2, 4]}, False),  # it has not come to the first rung
            ("paused", 2, {"pruner": "none", "rungs": None}, False),
            ("pruned", 2, {}, False),
            ("pruned", 2, {"pruner": "median", "rungs": None}, True),
            ("complete", 4, {"pruner": "none", "rungs": None}, True),
            ("failed", 0, {}, True),
        ],
    )
    def test_how_it_ended(
        self, state: str, epochs: int, search: dict[str, Any], counts: bool
    ) -> None:
        trials = [kept(0, (9.0, 7.0, 6.0, 5.0)[:epochs], state, lr=0.01)]
        found = begun(trials, space(**search))
        assert bool(found.trials) == counts
        assert found.left_out == ({} if counts else {"search.pruner": 1})


class TestParts:
    @pytest.mark.parametrize(
        ("state", "epochs", "rungs", "parts"),
        [
            ("complete", 4, [1, 2, 4], [(0, 1, "paused"), (1, 2, "paused"), (2, 4, "complete")]),
            ("complete", 3, [1, 2, 4], [(0, 1, "paused"), (1, 2, "paused"), (2, 4, "complete")]),
            ("complete", 4, [1, 2], [(0, 1, "paused"), (1, 2, "paused")]),
            ("paused", 2, [1, 2, 4], [(0, 1, "paused"), (1, 2, "paused")]),
            ("paused", 3, [1, 2, 4], [(0, 1, "paused"), (1, 2, "paused")]),
            ("failed", 2, [1, 2, 4], [(0, 1, "paused"), (1, 2, "failed")]),
            ("failed", 0, [1, 2, 4], [(0, 1, "failed")]),
        ],
    )
    def test_one_for_each_rung(
        self, state: str, epochs: int, rungs: list[int], parts: list[tuple[int, int, str]]
    ) -> None:
        values = (9.0, 7.0, 8.0, 5.0)[:epochs]
        found = begun([kept(0, values, state, lr=0.01)], space(rungs=rungs)).parts
        assert [(part.since, part.until, part.state) for part in found] == parts
        assert [part.number for part in found] == list(range(len(parts)))
        for part in found:
            assert part.curve == kept(0, values, state).line.curve[: part.until]
            if part.result is not None:
                assert part.result["nelbo_nats"] == min(values[: part.until])
                assert part.result["epochs"] == len(part.curve)

    def test_they_know_where_they_come_from(self) -> None:
        (part, *_) = begun([kept(3, lr=0.01)], space()).parts
        assert part.kept == {"study": "old-0123456789ab", "number": 3, "seed": 103}
        assert part.meta["arithmetic"] == {"device": "cpu"}


def some(count: int) -> list[Kept]:
    """Trials that were paused at their rungs, of which the later ones are better."""
    return [
        kept(number, (9.0 - number / 100,), "paused", lr=0.002 * (number + 1))
        for number in range(count)
    ]


@pytest.fixture
def its() -> Space:
    return space(trials=30, startup_trials=5, parallelism=4, reduction_factor=2)


class TestSearch:
    def test_only_what_is_missing_begins(self, its: Space, tmp_path: Path) -> None:
        kept_parts = begun(some(16), its).parts
        parts = search(its, tmp_path, begins_with=kept_parts)
        trials = trials_of(parts)
        assert len(trials) == 30
        assert sum(trial.kept is not None for trial in trials) == 16
        new = [part for part in parts if part.since == 0 and not part.kept]
        assert [part.trial for part in new] == list(range(16, 30))
        assert outcome(parts)[: len(kept_parts)] == outcome(kept_parts)

    def test_the_best_of_them_go_on(self, its: Space, tmp_path: Path) -> None:
        parts = search(its, tmp_path, begins_with=begun(some(16), its).parts)
        first = next(part for part in parts if not part.kept)
        assert (first.trial, first.since, first.until) == (15, 1, 2)
        assert (first.starts, first.follows) == (0, None)

    @pytest.mark.parametrize(("workers", "restarts"), [(1, 0.0), (4, 0.0), (4, 0.05)])
    def test_workers_and_deaths_change_nothing(
        self, its: Space, tmp_path: Path, workers: int, restarts: float
    ) -> None:
        kept_parts = begun(some(16), its).parts
        one = search(its, tmp_path / "a", begins_with=kept_parts)
        other = search(
            its, tmp_path / "b", workers, timing=3, restarts=restarts, begins_with=kept_parts
        )
        assert outcome(other) == outcome(one)

    def test_a_larger_budget_extends(self, its: Space, tmp_path: Path) -> None:
        kept_parts = begun(some(16), its).parts
        less = its.model_copy(update={"search": its.search.model_copy(update={"trials": 24})})
        fewer = search(less, tmp_path / "a", begins_with=kept_parts)
        more = search(its, tmp_path / "b", begins_with=kept_parts)
        began = [part.parameters for part in fewer if part.since == 0]
        assert [part.parameters for part in more if part.since == 0][: len(began)] == began

    def test_nothing_begins_where_enough_were_kept(self, tmp_path: Path) -> None:
        its = space(trials=5, pruner="none", rungs=None)
        parts = search(its, tmp_path, begins_with=begun([kept(n, lr=0.01) for n in range(8)], its)
                       .parts)  # fmt: skip
        assert len(parts) == 8

    def test_patience_counts_from_what_was_kept(self, tmp_path: Path) -> None:
        its = space(trials=40, stop={"patience": 6, "gain": 50.0}, pruner="none", rungs=None)
        trials = [kept(n, lr=0.01 + n / 1000) for n in range(10)]
        parts = search(its, tmp_path, begins_with=begun(trials, its).parts)
        assert 16 <= len(trials_of(parts)) < 40

    def test_epochs_of_kept_trials_count(self, tmp_path: Path) -> None:
        its = space(trials=40, total_epochs=40, pruner="none", rungs=None)
        trials = [kept(n, lr=0.01 + n / 1000) for n in range(6)]
        parts = search(its, tmp_path, begins_with=begun(trials, its).parts)
        assert len(trials_of(parts)) == 10

    def test_a_median_is_that_of_the_kept(self) -> None:
        its = space(pruner="median", rungs=None)
        planner = Planner(its)
        planner.update(begun([kept(n, lr=0.01) for n in range(3)], its).parts)
        assert [curve.values for curve in planner.curves(3)] == [(9.0, 7.0, 6.0, 5.0)] * 3


class TestFirst:
    def test_the_centre_is_not_tried_where_something_is_known(self) -> None:
        its = space(startup_trials=1)
        planner = Planner(its)
        assert proposer(its).propose(planner) == centre(its.searched)
        planner.update(begun([kept(0, lr=0.02)], its).parts)
        assert proposer(its).propose(planner) != centre(its.searched)

    def test_what_is_enqueued_is_tried_unless_it_was(self) -> None:
        its = space(enqueue=[{"lr": 0.02}, {"lr": 0.03}])
        planner = Planner(its)
        planner.update(begun([kept(0, lr=0.02), kept(1, lr=0.05)], its).parts)
        assert proposer(its).propose(planner) == {"lr": 0.03}

    def test_a_cell_of_a_grid_is_not_trained_twice(self, tmp_path: Path) -> None:
        cells = {"lr": {"choices": [0.01, 0.02, 0.03]}, "latent_dim": {"choices": [4, 8]}}
        its = space(cells, sampler="grid", trials=6)
        parts = begun([kept(0, lr=0.02, latent_dim=4), kept(1, lr=0.03, latent_dim=8)], its).parts
        chosen = [trial.parameters for trial in trials_of(search(its, tmp_path, begins_with=parts))]
        assert len({str(each) for each in chosen}) == len(chosen) == 6

    def test_sources_say_what_was_kept(self, tmp_path: Path) -> None:
        its = space(trials=12, startup_trials=2)
        parts = search(its, tmp_path, begins_with=begun(some(4), its).parts)
        found = sources(its, parts)
        assert found[:4] == [Source.KEPT] * 4
        assert set(found[4:]) == {Source.PROPOSED}


def test_a_study_begins_with_them_once(its: Space, storage: str) -> None:
    found = begun([kept(0, lr=0.01), kept(1, (9.0,), "failed", lr=0.02)], its)
    ledger = Ledger(storage)
    for _ in range(2):
        ledger.open_study("toy", "toy", Kind.SEARCH, {}, begins_with=found.parts)
    parts = ledger.parts("toy")
    assert [replace(part, started_ms=0, finished_ms=None) for part in parts] == found.parts
    assert ledger.claim("toy", Claimant("a"), budget=99) is None
    assert to_reopen(parts) == ([], [])  # what was kept is not tried again
    ledger.close()


def test_a_worker_of_another_arithmetic_is_refused(its: Space, tmp_path: Path) -> None:
    ledger = open_ledger(f"sqlite:///{tmp_path}/x.db")
    ledger.open_study("toy", "toy", "search", {}, begins_with=begun(some(3), its).parts)
    watch = Watch(ledger, toy_study(its), its)
    watch.refresh()
    made = plan(watch, proposer(its))
    assert made
    for device, proposals in (("cpu", "numpy 9"), ("cuda", "numpy 9")):
        meta = {"arithmetic": {"device": device, "proposals": proposals}}
        if device == "cpu":  # what proposals depend on is no matter of kept trials
            lease = ledger.begin("toy", made, Claimant("a", meta))
            assert lease
            ledger.release("a", blameless=True)
        else:
            with pytest.raises(OtherArithmetic, match="device: cpu → cuda"):
                ledger.claim("toy", Claimant("b", meta), budget=99)


def manifest(data: str) -> dict[str, Any]:
    return {"sha256": data, "shape": [1, 8, 8], "counts": {"train": 100}}


class TestTable:
    @pytest.fixture
    def paths(self, tmp_path: Path) -> Paths:
        own = origin()
        text = table_text([own], [kept(n, lr=0.01 * (n + 1)).line for n in range(3)])
        (tmp_path / "t.jsonl").write_text(text)
        return Paths(tmp_path, "toy")

    @staticmethod
    def naming(paths: Paths, **changes: Any) -> Space:
        its = space(**changes)
        table = Observations(file="t.jsonl", sha256=sha256_of(paths.root / "t.jsonl"))
        search = its.search.model_copy(update={"observations": table})
        return its.model_copy(update={"search": search})

    def test_it_is_read(self, paths: Paths) -> None:
        found = beginning(self.naming(paths), paths, "toy", manifest(DATA))
        assert found.trials == 3
        assert all(part.cost > 0 for part in found.parts)

    def test_one_that_was_edited_since_is_refused(self, paths: Paths) -> None:
        its = self.naming(paths)
        (paths.root / "t.jsonl").write_text("")
        with pytest.raises(UserError, match=r"must have the SHA-256 \w{12}, but has \w{12}"):
            beginning(its, paths, "toy", manifest(DATA))

    @pytest.mark.parametrize(
        ("data", "changes", "why"), [("e" * 64, {}, "data"), (DATA, {"epochs": 5}, "epochs")]
    )
    def test_trials_of_other_data_or_another_budget_inform(
        self, paths: Paths, data: str, changes: dict[str, Any], why: str
    ) -> None:
        found = beginning(self.naming(paths, **changes), paths, "toy", manifest(data))
        assert found.parts == []
        assert [each["lr"] for each in found.informing] == [0.01, 0.02, 0.03]
        assert found.text() == (f"0 of 3 kept trials count (not 3 for {why}); 3 of 3 inform it")

    def test_trials_of_two_studies_count_and_inform(self, paths: Paths) -> None:
        other = origin("mnist-0123456789ab", data="e" * 64)
        lines = [kept(0, lr=0.01).line, kept(1, lr=0.02, of=other).line,
                 kept(2, lr=0.5, of=other).line]  # fmt: skip
        (paths.root / "t.jsonl").write_text(table_text([origin(), other], lines))
        found = beginning(self.naming(paths), paths, "toy", manifest(DATA))
        assert (found.trials, found.informing) == (1, [{"lr": 0.02}])
        assert found.text() == (
            "1 of 3 kept trials count (not 2 for data); 1 of 2 inform it (not 1 for nothing that is"
            " searched here)"
        )

    @pytest.mark.parametrize(
        ("changes", "who"),
        [
            ({"sampler": "random"}, "sampler random"),
            ({"objectives": ["kl_nats", "recon_nats"], "pruner": "none", "rungs": None}, "two obj"),
        ],
    )
    def test_who_cannot_be_informed_refuses_them(
        self, paths: Paths, changes: dict[str, Any], who: str
    ) -> None:
        with pytest.raises(UserError, match=f"has trials of other data.* {who}"):
            beginning(self.naming(paths, **changes), paths, "toy", manifest("e" * 64))
