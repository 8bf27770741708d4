"""Where and how evaluate computes: on the device that is set, with one thread in every library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from threadpoolctl import threadpool_info, threadpool_limits
from worked import Worked

from pipeline.data import prepared
from pipeline.paths import Paths
from pipeline.settings.machine import Machine
from pipeline.settings.sections import Evaluate
from pipeline.settings.space import load_space
from pipeline.stages import evaluate
from pipeline.vae import checkpoint, process


def blas_threads() -> set[int]:
    return {each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"}


def test_models_and_images_are_on_the_device_and_libraries_have_one_thread(
    worked: Worked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device is one that is not here: what is asked for there is had on the processor."""
    root = worked.copy(tmp_path / "clone").root
    asked: dict[str, list[tuple[str, set[int]]]] = {}

    def elsewhere(module: Any, name: str, position: int) -> None:
        real = getattr(module, name)

        def called(*arguments: Any) -> Any:
            asked.setdefault(name, []).append((arguments[position], blas_threads()))
            return real(*arguments[:position], "cpu", *arguments[position + 1 :])

        monkeypatch.setattr(module, name, called)

    elsewhere(checkpoint, "load_model", 2)
    elsewhere(prepared, "load_images", 2)
    elsewhere(process, "prepare_process", 0)
    elsewhere(process, "arithmetic", 0)
    monkeypatch.setattr(process, "resolve_device", lambda name: f"{name} of another machine")
    space, paths = load_space(root, "tiny"), Paths(root, "tiny")
    with threadpool_limits(2, user_api="blas"):
        assert 2 in blas_threads()
        figures = evaluate.measured(space, Machine(device="cuda:1", tracking="none"), paths)
    assert figures["nelbo_nats"] > 0
    assert set(asked) == {"load_model", "load_images", "prepare_process", "arithmetic"}
    devices = {device for calls in asked.values() for device, _ in calls}
    assert devices == {"cuda:1 of another machine"}
    assert [threads for calls in asked.values() for _, threads in calls if threads != {1}] == []


def test_training_images_of_one_class_leave_no_probe_instead_of_an_error(
    worked: Worked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a few images of several classes the test set may have all of the others."""
    root = worked.copy(tmp_path / "clone").root
    real = prepared.load_labels
    monkeypatch.setattr(
        prepared,
        "load_labels",
        lambda folder, split: real(folder, split) * (0 if split == "train" else 1),
    )
    space, paths = load_space(root, "tiny"), Paths(root, "tiny")
    space = space.model_copy(update={"evaluate": Evaluate(nelbo_samples=1, iw_samples=0)})
    assert space.evaluate.probe
    figures = evaluate.measured(space, Machine(device="cpu", tracking="none"), paths)
    assert "probe_accuracy" not in figures
