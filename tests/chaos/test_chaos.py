"""A minute of chaos; hours of it: `python -m tests.chaos --seconds 3600`."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.chaos.faults import schedule
from tests.chaos.harness import Chaos, let_loose

pytestmark = pytest.mark.real_redis
_SEED = 20
"""Any will do; always the same, so that what fails once can be looked at."""


@pytest.mark.timeout(240)
async def test_a_minute_of_chaos(tmp_path: Path) -> None:
    report = await let_loose(Chaos(_SEED, seconds=45, workers=3, conversations=6, every=0.8, lease=1.5), tmp_path)
    assert report.violations == []
    # It was no idle minute.
    assert report.figures["runs"] > 30
    assert report.figures["kills"] >= 10
    assert report.figures["attempts"] - report.figures["runs"] >= 10
    assert report.figures["tokens voided"]["all"] > 0


def test_a_seed_decides_what_goes_wrong() -> None:
    assert list(schedule(1, 60, every=1)) == list(schedule(1, 60, every=1))
    assert list(schedule(1, 60, every=1)) != list(schedule(2, 60, every=1))
