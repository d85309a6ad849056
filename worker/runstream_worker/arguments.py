"""From the JSON of a request to the objects that `Pregel.astream` takes.

Inputs need nothing done to them: LangGraph's `add_messages` takes messages as dicts, and pairs as lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langgraph.types import Command, Send

from runstream.errors import InvalidRequest


def to_command(wire: dict[str, Any], *, pending: Sequence[str] = ()) -> Command[Any]:
    """Make LangGraph's `Command` of a request's.

    Args:
        wire: what `runstream.command.command_to_jsonable` wrote.
        pending: the ids of the interrupts that the thread's saved state waits for. Needed only for `"resume": null`:
            LangGraph takes `Command(resume=None)` for no answer at all, so None has to be given by interrupt id.

    Raises:
        InvalidRequest: the answer is null, and there is not exactly one interrupt that it could be meant for.
    """
    return Command(
        resume=_answer_by_id(pending) if needs_pending(wire) else wire.get("resume"),
        update=_update(wire.get("update")),
        goto=_goto(wire.get("goto", [])),
    )


def needs_pending(wire: dict[str, Any]) -> bool:
    """Tell whether `to_command` needs to know the pending interrupts, which costs a look at the saved state."""
    return "resume" in wire and wire["resume"] is None


def _answer_by_id(pending: Sequence[str]) -> dict[str, None]:
    if len(pending) != 1:
        raise InvalidRequest(
            "command.resume",
            f"null answers the one interrupt that a thread waits for, and this thread waits for {len(pending)}; "
            "pass the answers by interrupt id",
        )
    return {pending[0]: None}


def _update(update: Any) -> Any:
    # LangGraph knows pairs by their being tuples.
    return [tuple(pair) for pair in update] if isinstance(update, list) else update


def _goto(goto: Any) -> Any:
    if isinstance(goto, list):
        return [_goto(target) for target in goto]
    return Send(goto["node"], goto["input"]) if isinstance(goto, dict) else goto
