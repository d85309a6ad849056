"""LangGraph's `Command` and `Send` for those who do not have LangGraph, and the JSON in which either's travel.

    {"resume": any, "update": object or [[key, value], ...], "goto": target or [target, ...]}

with a name or `{"node": name, "input": any}` for a target: the `command` of LangGraph's own API. Each key is there only
if it was given; `"resume": null` is an answer, and its absence is none.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from pydantic import BaseModel, JsonValue

from runstream.errors import InvalidRequest
from runstream.jsonable import is_instance, to_jsonable

_KEYS: Final = ("resume", "update", "goto")


class NotGiven(enum.Enum):
    """Tells an argument that was left out from one that is None."""

    NOT_GIVEN = "NOT_GIVEN"


NOT_GIVEN: Final = NotGiven.NOT_GIVEN


@dataclass(frozen=True)
class Send:
    """Runs one node with an input of its own.

    Attributes:
        node: the node's name.
        input: what the node gets in place of the state, as it is: dicts in it do not become messages.
    """

    node: str
    input: object


@dataclass(frozen=True, kw_only=True)
class Command:
    """What a run does in place of taking an input: pass it to `enqueue` where the input goes.

    Attributes:
        resume: the answer to the thread's interrupt, or answers by interrupt id. None is an answer here; LangGraph's
            own `Command` takes it for none.
        update: an update of the state: an object, or pairs of key and value.
        goto: the node or nodes to go to.
    """

    resume: object = NOT_GIVEN
    update: object = None
    goto: str | Send | Sequence[str | Send] = ()


def is_command(value: object) -> bool:
    """Tell whether a value is a `Command`, this module's or LangGraph's."""
    return isinstance(value, Command) or is_instance(value, "langgraph.types", "Command")


def command_to_jsonable(command: object, field: str) -> dict[str, JsonValue]:
    """Put a command in JSON.

    Args:
        command: a `Command`, this module's or LangGraph's, or what this function returns.
        field: what to call it in error messages.

    Raises:
        InvalidRequest: it is no command, asks for nothing, or holds something that is not JSON.
    """
    given = _given(command, field)
    converted: dict[str, JsonValue] = {}
    if "resume" in given:
        converted["resume"] = to_jsonable(given["resume"], f"{field}.resume")
    if given.get("update") is not None:
        converted["update"] = _update(given["update"], f"{field}.update")
    if given.get("goto") not in (None, (), []):
        converted["goto"] = _goto(given["goto"], f"{field}.goto")
    if not converted:
        raise InvalidRequest(field, "a command that asks for nothing: give resume, update or goto")
    return converted


def _given(command: object, field: str) -> dict[str, Any]:
    if isinstance(command, Command):
        given = {key: getattr(command, key) for key in _KEYS}
        return {key: value for key, value in given.items() if value is not NOT_GIVEN}
    if is_command(command):
        return _given_to_langgraph(command, field)
    if not isinstance(command, Mapping):
        raise InvalidRequest(field, f"{command!r} must be a Command or an object of {', '.join(_KEYS)}")
    if unknown := [key for key in command if key not in _KEYS]:
        raise InvalidRequest(field, f"a command has no {unknown[0]!r}: its keys are {', '.join(_KEYS)}")
    return dict(command)


def _given_to_langgraph(command: Any, field: str) -> dict[str, Any]:
    if command.graph is not None:
        raise InvalidRequest(f"{field}.graph", f"{command.graph!r}: a run has no parent graph, leave it out")
    given = {key: getattr(command, key) for key in _KEYS}
    return {key: value for key, value in given.items() if value is not None}


def _update(update: Any, field: str) -> JsonValue:
    if isinstance(update, list | tuple):
        if not all(isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[0], str) for pair in update):
            raise InvalidRequest(field, "a list must hold pairs of key and value, such as [('topic', 'bees')]")
    elif not isinstance(update, dict | BaseModel) and not dataclasses.is_dataclass(update):
        raise InvalidRequest(field, f"{update!r} must be an object of the state's keys, or pairs of key and value")
    return to_jsonable(update, field)


def _goto(goto: Any, field: str) -> JsonValue:
    if isinstance(goto, list | tuple):
        return [_target(target, f"{field}[{index}]") for index, target in enumerate(goto)]
    return _target(goto, field)


def _target(target: Any, field: str) -> JsonValue:
    if isinstance(target, str):
        return cast("str", to_jsonable(target, field))
    if isinstance(target, Mapping) and target.keys() == {"node", "input"}:
        target = Send(target["node"], target["input"])
    elif is_instance(target, "langgraph.types", "Send"):
        target = _from_langgraph(target, field)
    if not isinstance(target, Send) or not isinstance(target.node, str):
        raise InvalidRequest(field, f"{target!r} must be the name of a node, or a Send(node, input)")
    return {"node": target.node, "input": to_jsonable(target.input, f"{field}.input")}


def _from_langgraph(send: Any, field: str) -> Send:
    if getattr(send, "timeout", None) is not None:
        raise InvalidRequest(f"{field}.timeout", "the timeout of a Send does not travel: give the node a timeout")
    return Send(send.node, send.arg)
