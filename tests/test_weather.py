"""Two hosts in bad weather, in short; `tests/support/weather.py --minutes 20` is the long form."""

from __future__ import annotations

import os

import pytest
from weather import SHORT, storm


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0, reason="hosts are namespaces, which need root")
def test_two_hosts_in_bad_weather_write_the_bytes_of_a_calm_run() -> None:
    weather = storm(0, 7, mlflow=False, pauses=(2, 6), blows=(4, 12), raw=SHORT, workers=1)
    assert weather.restarts
    assert weather.kills
    assert weather.compared
