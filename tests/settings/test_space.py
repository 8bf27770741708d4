"""Search spaces and machine.yaml: what is accepted and what it means."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.settings.hyperparameters import Range
from pipeline.settings.machine import ENVIRONMENT, Machine, load_machine
from pipeline.settings.space import Space, load_space

ROOT = Path(__file__).parents[2]


def load(folder: Path, text: str) -> Space:
    (folder / "search_spaces").mkdir()
    (folder / "search_spaces" / "x.yaml").write_text(text, encoding="utf-8")
    return load_space(folder, "x")


@pytest.mark.parametrize("name", sorted(p.stem for p in (ROOT / "search_spaces").glob("*.yaml")))
def test_the_committed_sweeps_are_valid(name: str) -> None:
    assert load_space(ROOT, name).name == name


def test_what_is_left_out_has_its_default(tmp_path: Path) -> None:
    space = load(tmp_path, "data: {name: digits}\n")
    assert (space.search.trials, space.search.sampler) == (20, "tpe")
    assert (space.fixed, space.searched) == ({}, {})
    assert space.hyperparameters({}).lr == 1e-3


def test_a_space_of_everything(tmp_path: Path) -> None:
    space = load(
        tmp_path,
        """
data: {name: npz, path: mine.npz, limit: 100}
model: {likelihood: gaussian, sigma: optimal}
parameters:
  family: {choices: [mlp, conv_pool]}
  filters: {low: 8, high: 32, step: 8, when: {family: conv_pool}}
  hidden: {choices: [[64], [64, 32]], when: {family: mlp}}
  lr: {low: 1.0e-4, high: 1.0e-2, log: true}
  patience: {choices: [null, 3]}
  restore_best: false
search: {sampler: gp, pruner: percentile, trials: 7, fallback: {lr: 1.0e-3}}
retrain: {top: 1}
render: {projections: [umap]}
""",
    )
    assert space.model.sigma == "optimal"
    assert space.fixed == {"restore_best": False}
    assert set(space.searched) == {"family", "filters", "hidden", "lr", "patience"}
    assert space.search.fallback == {"lr": 1e-3}
    # Workers get it as JSON in a job file.
    assert Space.model_validate_json(space.model_dump_json()) == space


def test_integers_stand_for_reals(tmp_path: Path) -> None:
    space = load(tmp_path, "data: {name: digits}\nmodel: {likelihood: gaussian, sigma: 1}\n"
                           "parameters: {lr: 1}\nrender: {grid_range: 2}\n")  # fmt: skip
    assert (space.model.sigma, space.fixed["lr"], space.render.grid_range) == (1.0, 1.0, 2.0)
    assert isinstance(space.fixed["lr"], float)


def test_anchors_and_merge_keys(tmp_path: Path) -> None:
    validation = "validation: &split {seed: 3}"
    data = load(
        tmp_path, f"data: {{name: digits, {validation}, test: {{<<: *split, fraction: 0.5}}}}"
    ).data
    assert (data.test.seed, data.test.fraction, data.validation.seed) == (3, 0.5, 3)


def test_chosen_values_win_over_fixed_ones_and_those_over_defaults(tmp_path: Path) -> None:
    space = load(tmp_path, "data: {name: digits}\nparameters: {beta: 2.0, lr: 0.5}\n")
    values = space.hyperparameters({"lr": 0.25})
    assert (values.lr, values.beta, values.momentum) == (0.25, 2.0, 0.9)


def test_a_fallback_goes_over_the_fixed_values(tmp_path: Path) -> None:
    space = load(
        tmp_path,
        "data: {name: digits}\nparameters: {family: conv_pool}\nsearch: {fallback: {filters: 8}}",
    )
    assert space.search.fallback == {"filters": 8}


class TestMachine:
    @pytest.fixture(autouse=True)
    def _bare_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ENVIRONMENT:
            monkeypatch.delenv(name, raising=False)

    def test_absent_or_empty_is_fine(self, tmp_path: Path) -> None:
        assert load_machine(tmp_path) == Machine()
        (tmp_path / "machine.yaml").write_text("# workers: 2\n")
        assert load_machine(tmp_path) == Machine()

    def test_the_example_is_valid_as_it_is_and_with_every_line_taken(self, tmp_path: Path) -> None:
        example = (ROOT / "machine.example.yaml").read_text(encoding="utf-8")
        (tmp_path / "machine.yaml").write_text(example)
        assert load_machine(tmp_path) == Machine()
        lines = [line.removeprefix("# ") for line in example.splitlines()[1:]]
        (tmp_path / "machine.yaml").write_text("\n".join(lines))
        assert load_machine(tmp_path).model_fields_set == set(Machine.model_fields)

    def test_the_environment_wins(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "machine.yaml").write_text("workers: 1\nstorage: sqlite:///a.db\ndevice: cpu\n")
        monkeypatch.setenv("PIPELINE_WORKERS", "7")
        monkeypatch.setenv("PIPELINE_STORAGE", "sqlite:///b.db")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
        machine = load_machine(tmp_path)
        assert (machine.workers, machine.storage, machine.device) == (7, "sqlite:///b.db", "cpu")
        assert machine.tracking == "http://127.0.0.1:5000"

    @pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:1"])
    def test_devices(self, device: str) -> None:
        assert Machine(device=device).device == device


@pytest.mark.parametrize("text", ["1e-3", "1.e-3", ".1e-2", "1E-3", "+1e-3", "1.0e-3"])
def test_numbers_are_read_as_people_write_them(text: str, tmp_path: Path) -> None:
    (tmp_path / "search_spaces").mkdir()
    (tmp_path / "search_spaces" / "x.yaml").write_text(
        f"data: {{name: digits}}\nparameters: {{lr: {text}, beta: {{low: {text}, high: 1e0}}}}\n"
    )
    space = load_space(tmp_path, "x")
    assert space.fixed == {"lr": 1e-3}
    assert space.searched["beta"] == Range(low=1e-3, high=1.0)
