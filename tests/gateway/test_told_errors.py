"""What clients are told of exceptions: by the stream, whatever mode it is in."""

from __future__ import annotations

from typing import Any

import pytest

from runstream import Event
from runstream_gateway.jsonbytes import dumps
from runstream_gateway.told_errors import UNTOLD
from runstream_gateway.translate import FrameCache

PRIVATE = "the door code is 1234"
FAILED: dict[str, Any] = {
    "id": "t",
    "name": "n",
    "error": {"error": "MyError", "message": PRIVATE},
    "result": {},
    "interrupts": [],
}
BY_REPR: dict[str, Any] = {"id": "t", "name": "n", "error": f"MyError('{PRIVATE}')", "interrupts": [], "state": None}


@pytest.mark.parametrize(
    ("mode", "data"),
    [
        ("tasks", FAILED),
        ("debug", {"type": "task_result", "step": 1, "payload": FAILED}),
        ("debug", {"type": "checkpoint", "step": 1, "payload": {"tasks": [BY_REPR], "values": {}}}),
        ("checkpoints", {"tasks": [BY_REPR, FAILED], "values": {}}),
    ],
)
def test_a_message_that_may_be_nobodys_business_is_not_in_any_mode(mode: Any, data: dict[str, Any]) -> None:
    event = Event("1-1", mode, (), data)
    told = FrameCache().of("run", event).data.decode()
    assert PRIVATE not in told
    assert "MyError" in told
    assert UNTOLD in told
    assert FrameCache(show_errors=True).of("run", event).data == dumps(data)


def test_those_of_common_exceptions_are() -> None:
    data = {**FAILED, "error": {"error": "ValueError", "message": "three is too much"}}
    assert FrameCache().of("run", Event("1-1", "tasks", (), data)).data == dumps(data)
    assert FrameCache().of("run", Event("1-2", "updates", (), {"n": {"error": "x"}})).data == dumps(
        {"n": {"error": "x"}}
    )
