"""A worker is killed at some points of its work with each graph; every point: `python -m tests.chaos.crash_points`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from tests.chaos.crash_points import RESULTS, Crash, crash, crash_everywhere, fleet
from tests.chaos.fleet import Fleet
from tests.chaos.graphs import FAMILIES

pytestmark = pytest.mark.real_redis
_SAMPLE = 4


@pytest.fixture
async def workers(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with fleet(tmp_path) as fleet_:
        yield fleet_


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_crash_anywhere_costs_nothing(family: str, workers: Fleet, redis_url: str) -> None:
    durability = ("sync", "async", "exit")[list(FAMILIES).index(family) % 3]
    base = Crash(family, durability, None)
    counted = await crash(base, redis_url, workers)
    assert counted.violations == []
    assert counted.count > 10, "there are not that few words between a worker and Redis"
    # The first ones, the last ones, and some in between that are always the same.
    middle = Random(family).sample(range(2, counted.count - 2), _SAMPLE)
    points = [0, 1, *middle, counted.count - 2, counted.count - 1]
    crashes = [replace(base, point=point, how=("before", "after")[point % 2]) for point in points]
    outcomes = await crash_everywhere(crashes, redis_url, workers)
    assert [outcome for outcome in outcomes if outcome.violations] == []
    # A run that packs its events more densely has fewer words with Redis, and may not come to the last of these points:
    # it is killed again, in the middle of those that it has.
    missed = [replace(outcome.crash, point=outcome.count // 2) for outcome in outcomes if not outcome.killed]
    nearer = await crash_everywhere(missed, redis_url, workers)
    assert [outcome for outcome in nearer if outcome.violations] == []
    assert sum(outcome.killed for outcome in (*outcomes, *nearer)) > _SAMPLE


@pytest.mark.parametrize("family", ["branches", "asking", "asking_inside"])
async def test_a_crash_around_a_result_costs_nothing(family: str, workers: Fleet, redis_url: str) -> None:
    """What a task has said stands as soon as its result has been saved, and is void as long as it has not."""
    base = Crash(family, "sync", None, only=RESULTS)
    counted = await crash(base, redis_url, workers)
    assert counted.violations == []
    crashes = [replace(base, point=point, how=how) for point in range(counted.count) for how in ("before", "after")]
    outcomes = await crash_everywhere(crashes, redis_url, workers)
    assert [outcome for outcome in outcomes if outcome.violations] == []
    assert sum(outcome.killed for outcome in outcomes) > counted.count
