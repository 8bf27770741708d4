"""What is recorded of a training has the keys that its readers know."""

from __future__ import annotations

from crews import Sweep

from pipeline.results.keys import EPOCH, OUTCOME


def test_a_trial_is_recorded_under_the_keys_that_are_known(tiny: Sweep) -> None:
    assert tiny.worker().work() == 0
    first, *_ = tiny.trials()
    assert first.curve
    assert all(epoch.keys() == set(EPOCH) for epoch in first.curve)
    assert first.result
    assert first.result.keys() == {*OUTCOME, "mean_image_nelbo_nats"}
