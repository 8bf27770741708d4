"""Hypothesis with the same examples every time, however slow the machine is."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

STEADY = settings(derandomize=True, deadline=None, database=None,
                  suppress_health_check=list(HealthCheck))  # fmt: skip
