"""A run's thread may be given where LangGraph has it."""

from __future__ import annotations

from typing import Any

import pytest

from runstream import InvalidRequest
from runstream.request import prepare


def _thread_of(**options: Any) -> str:
    return prepare("agent", {}, options, max_bytes=10_000).request.thread_id


@pytest.mark.parametrize(
    "options",
    [
        {"thread_id": "t-1"},
        {"config": {"configurable": {"thread_id": "t-1"}}},
        {"thread_id": "t-1", "config": {"configurable": {"thread_id": "t-1"}}},
        {"thread_id": "t-1", "config": {"configurable": {"thread_id": None}}},
    ],
)
def test_the_thread_is_taken_from_its_option_or_from_langgraphs_place(options: dict[str, Any]) -> None:
    assert _thread_of(**options) == "t-1"


def test_two_threads_are_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"thread_id: 't-2', but config.configurable.thread_id is 't-1'"):
        _thread_of(thread_id="t-2", config={"configurable": {"thread_id": "t-1"}})


def test_a_thread_that_is_no_string_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"config.configurable.thread_id: 7 must be 1 to 255"):
        _thread_of(config={"configurable": {"thread_id": 7}})
