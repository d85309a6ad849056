"""Many results at once, some of which are none."""

from __future__ import annotations

from typing import TypedDict

import pytest
from langgraph.graph import START, StateGraph
from tests.support.workers import Workers

from runstream import Client, RunErrored


class State(TypedDict):
    number: int


def invert(state: State) -> State:
    return {"number": 60 // state["number"]}


@pytest.fixture(autouse=True)
async def worker(workers: Workers) -> None:
    await workers.start(invert=StateGraph(State).add_node(invert).add_edge(START, "invert").compile())


async def test_a_failed_run_raises_its_own_exception(client: Client) -> None:
    with pytest.raises(RunErrored, match="ZeroDivisionError"):
        await client.batch("invert", [{"number": 2}, {"number": 0}, {"number": 3}])


async def test_a_failed_run_takes_its_place_among_the_results(client: Client) -> None:
    first, second, third = await client.batch(
        "invert", [{"number": 2}, {"number": 0}, {"number": 3}], return_exceptions=True
    )

    assert (first, third) == ({"number": 30}, {"number": 20})
    assert isinstance(second, RunErrored)
