"""Sweeps in Python: the same figures as the files, wherever the process stands."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from matplotlib.figure import Figure
from own_models import EXAMPLE
from worked import SPACE, Worked

from pipeline.api import Checkout, Comparison, Sweep
from pipeline.errors import UserError
from pipeline.files import read_json
from pipeline.study.confirmation.compare import difference


@pytest.fixture(scope="module")
def checkout(worked: Worked, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """Two sweeps of the same images, worked through, and one of which nothing has run."""
    clone = worked.copy(tmp_path_factory.mktemp("api") / "clone")
    space = clone.root / "search_spaces" / "other.yaml"
    ours = {
        "search": {**SPACE["search"], "seed": 2},
        "parameters": {**SPACE["parameters"], "schedule": "cosine"},
    }
    space.write_text(yaml.safe_dump({**SPACE, **ours}))
    for stage in ("prepare", "search", "retrain", "evaluate"):
        clone.done(stage, "other")
    shutil.copy(clone.root / "search_spaces" / "tiny.yaml", clone.root / "search_spaces/new.yaml")
    return Checkout(clone.root)


@pytest.fixture
def tiny(checkout: Checkout) -> Sweep:
    return checkout["tiny"]


def test_a_checkout_knows_its_sweeps(checkout: Checkout, tmp_path: Path) -> None:
    assert list(checkout) == ["new", "other", "tiny"]
    assert "tiny" in checkout
    assert "nope" not in checkout
    with pytest.raises(UserError, match="did you mean tiny"):
        checkout["tinny"]
    with pytest.raises(UserError, match="is no checkout"):
        Checkout(tmp_path)


def test_tables_are_those_of_the_files(tiny: Sweep) -> None:
    trials = tiny.trials()
    assert trials["number"].tolist() == [0, 1, 2]
    assert set(tiny.space.searched) < set(trials.columns)
    assert trials["nelbo_nats"].min() == tiny.best["nelbo_nats"]
    assert tiny.curves().groupby("number").size().tolist() == trials["epochs"].tolist()
    candidates = tiny.candidates()
    assert candidates.loc[candidates["winner"], "mean_nelbo_nats"].item() == pytest.approx(
        tiny.winner["mean_nelbo_nats"]
    )
    assert set(tiny.history()["seed"]) == {0, 1}
    assert tiny.metrics == read_json(tiny.paths.metrics)


def test_what_is_in_the_ledger_now(tiny: Sweep) -> None:
    for live, written in ((tiny.trials(live=True), tiny.trials()),
                          (tiny.curves(live=True), tiny.curves())):  # fmt: skip
        pd.testing.assert_frame_equal(
            live.astype(object), written.astype(object), check_dtype=False
        )


def test_figures_are_objects(tiny: Sweep) -> None:
    assert {"history", "candidates", "traversal"} < set(tiny.figures)
    for name in ("slices", "units", "prior_samples", "manifold"):
        assert isinstance(tiny.figure(name), Figure)
    with pytest.raises(UserError, match="figure must be one of history"):
        tiny.figure("nope")


def test_the_model_takes_arrays_and_is_a_torch_module(tiny: Sweep) -> None:
    model = tiny.model()
    images = np.load(tiny.paths.prepare / "test_images.npy")
    values = model.nelbo(images, seed=0, samples=1)
    assert values.mean() == pytest.approx(tiny.metrics["nelbo_nats"], abs=0.5)
    count = sum(weight.numel() for weight in model.module.parameters())
    assert count == tiny.winner["weights"]


def test_what_has_not_run_says_which_stage(checkout: Checkout) -> None:
    for read in ("trials", "candidates", "model"):
        with pytest.raises(UserError, match="run `python -m pipeline"):
            getattr(checkout["new"], read)()
    with pytest.raises(UserError, match="run `python -m pipeline prepare new` first"):
        checkout.compare("tiny", "new")


def test_winners_are_compared_image_by_image(checkout: Checkout) -> None:
    found = checkout.compare("tiny", "other")
    tiny, other = found.entries
    gap = found.difference("other")
    assert gap == difference(other.measured, tiny.measured)
    row = found.table().set_index("sweep").loc["other"]
    assert row["difference_nats"] == pytest.approx(
        checkout["other"].winner["mean_nelbo_nats"] - checkout["tiny"].winner["mean_nelbo_nats"],
        abs=1e-4,
    )
    assert row["test_nelbo_nats"] == checkout["other"].metrics["nelbo_nats"]
    assert "other − tiny, validation NELBO" in str(found)
    differing = found.parameters()
    assert differing["schedule"].tolist() == ["constant", "cosine"]  # a default, and a fixed one
    for name in ("another", "tiny"):
        with pytest.raises(UserError, match=f"tiny is compared with other, but got '{name}'"):
            found.difference(name)


def test_a_winner_of_one_seed_or_one_image_is_told_from_nobody(checkout: Checkout) -> None:
    one, many = checkout.compare("tiny", "other").entries
    alone = replace(one, measured=one.measured[:1])
    for pair in ([alone, many], [replace(many, name="tiny"), replace(alone, name="other")]):
        found = Comparison(pair)
        (said,) = str(found).splitlines()[-1:]
        assert said.endswith("nats: a single seed cannot tell luck from merit: raise retrain.seeds")
        assert found.table()["note"].iloc[1] in said
        assert found.table()["low_nats"].isna().all()
    images = [replace(each, measured=each.measured[:, :1]) for each in (one, many)]
    assert str(Comparison(images)).endswith(
        " nats: a single validation image says nothing of others: raise data.validation.fraction"
    )


def test_what_is_not_comparable_says_why(checkout: Checkout) -> None:
    tiny, other = checkout.compare("tiny", "other").entries
    squared = replace(other, settings={**other.settings, "likelihood": "gaussian"})
    found = Comparison([tiny, squared])
    assert found.difference("other") == "not comparable: likelihood is gaussian, not bernoulli"
    row = found.table().set_index("sweep").loc["other"]
    assert pd.isna(row["difference_nats"])
    assert "not comparable" in row["note"]
    with pytest.raises(UserError, match="takes two sweeps or more, but got 1"):
        checkout.compare("tiny")
    with pytest.raises(UserError, match="name it once"):
        checkout.compare("tiny", "tiny")


def test_a_sweep_is_defined_and_run(checkout: Checkout) -> None:
    with pytest.raises(UserError, match="trails"):
        checkout.define("made", {**SPACE, "search": {"trails": 3}})
    assert "made" not in checkout
    sweep = checkout.define("made", SPACE)
    with pytest.raises(UserError, match="exists"):
        checkout.define("made", SPACE)
    with pytest.raises(UserError, match="give plain numbers"):
        checkout.define("arrays", {**SPACE, "search": {"trials": np.int64(3)}})
    (checkout.root / "own.py").write_text(EXAMPLE)
    own = checkout.define("own", {"data": SPACE["data"],
                                  "parameters": {"family": "own.py:ResidualVAE"}})  # fmt: skip
    assert own.space.sources.keys() == {"own.py"}
    sweep.run("prepare")
    assert sweep.paths.manifest.exists()
    with pytest.raises(UserError, match="stage must be one of prepare"):
        sweep.run("serach")
    with pytest.raises(UserError, match="--for must be a duration"):
        sweep.run("search", duration="soon")


def test_the_page_does_what_it_says(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "python.md").read_text()
    monkeypatch.chdir(checkout.root)
    names: dict[str, object] = {}
    for block in re.findall(r"^```python\n(.*?)^```", page, re.M | re.S):
        exec(compile(block, "docs/python.md", "exec"), names)
    assert (checkout.root / "slices.pdf").stat().st_size > 1000
    assert "quick" in checkout
