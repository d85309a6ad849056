"""From the body of a run's creation to what is enqueued."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from runstream import Command, Document, RunSpec, Send
from runstream.command import NOT_GIVEN
from runstream_gateway.assistants import Assistant
from runstream_gateway.bodies import Checkpoint, RunCommand, RunCreate, StatelessRunCreate, Strategy
from runstream_gateway.errors import ApiError
from runstream_gateway.marks import MARKS, OF_CALLER, Marks, pregel_modes
from runstream_gateway.settings import HeaderRules

_CONFIG_KEYS = ("tags", "recursion_limit", "run_name", "max_concurrency")
_RESERVED = (OF_CALLER, "__pregel_")
_PLACES = {"checkpoint_id": str, "checkpoint_ns": str, "checkpoint_map": dict}


@dataclass(frozen=True)
class Submission:
    """Everything that makes up a run.

    Attributes:
        run_id: its id, made by the gateway.
        body: what was asked for.
        assistant: of which assistant.
        thread: the thread's document; None of a stateless run.
        metadata: the body's, with what the guard has added.
        configurable: what the gateway itself says to the graph: the request's headers, who calls.
        context_fields: what the graph's context has; None where it may have anything.
    """

    run_id: str
    body: StatelessRunCreate
    assistant: Assistant
    thread: Document | None
    metadata: Mapping[str, Any]
    configurable: Mapping[str, Any]
    context_fields: Collection[str] | None = None


def run_spec(what: Submission, *, retention: float | None) -> RunSpec:
    """What is to be enqueued.

    Raises:
        ApiError: 400, parts of the request exclude each other; 422, something is not as it has to be.
    """
    body = what.body
    return RunSpec(
        what.assistant.graph_id,
        _given(body.input, body.command),
        {
            "run_id": what.run_id,
            "thread_id": None if what.thread is None else what.thread.id,
            "config": _config(what),
            "context": _context(what),
            "metadata": {**_metadata(what), MARKS: _marks(what).model_dump(mode="json")},
            "stream_mode": pregel_modes(body.stream_mode),
            "subgraphs": bool(body.stream_subgraphs),
            "interrupt_before": body.interrupt_before,
            "interrupt_after": body.interrupt_after,
            "durability": _durability(body),
            "delay": body.after_seconds or None,
            "multitask_strategy": _strategy(body),
            "retention": retention,
        },
    )


def _strategy(body: StatelessRunCreate) -> Strategy:
    return (body.multitask_strategy if isinstance(body, RunCreate) else None) or "enqueue"


def _given(given: Any, command: RunCommand | None) -> Any:
    """What the graph is given: the input, or a `Command`."""
    wire = {} if command is None else command.model_dump(exclude_unset=True)
    others = {key: value for key, value in wire.items() if key != "resume" and value is not None}
    # Null is an answer where nothing else is asked for: clients send it for what they leave out, too.
    answers = "resume" in wire and (wire["resume"] is not None or not others)
    if not others and not answers:
        return given
    return Command(
        resume=wire["resume"] if answers else NOT_GIVEN, update=others.get("update"), goto=_goto(others.get("goto"))
    )


def _goto(goto: Any) -> Any:
    if isinstance(goto, list):
        return [_goto(target) for target in goto]
    if isinstance(goto, dict):
        if not isinstance(goto.get("node"), str):
            raise ApiError(422, f"command.goto: {goto!r} must be a node's name, or have 'node' and 'input'")
        return Send(goto["node"], goto.get("input"))
    return () if goto is None else goto


def _metadata(what: Submission) -> dict[str, Any]:
    thread = {} if what.thread is None else what.thread.data["metadata"]
    of_config = _object(what.body.config or {}, "metadata")
    merged = {**what.assistant.metadata, **thread, **of_config, **what.metadata}
    merged.pop("run_id", None)
    return {**merged, "assistant_id": what.assistant.assistant_id, "graph_id": what.assistant.graph_id}


def _marks(what: Submission) -> Marks:
    body = what.body
    return Marks(
        assistant_id=what.assistant.assistant_id,
        stream_mode=tuple(body.stream_mode),
        multitask_strategy=_strategy(body),
        stateless=what.thread is None,
        feedback_keys=tuple(body.feedback_keys or ()),
        told=tuple(what.configurable),
    )


def _config(what: Submission) -> dict[str, Any]:
    """The graph's config: the assistant's, the request's, and what says where and for whom it runs."""
    body, assistant = what.body, what.assistant
    given = {**assistant.config, **(body.config or {})}
    chosen = {**_object(assistant.config, "configurable"), **_object(body.config or {}, "configurable")}
    if isinstance(body.context, dict):
        if _object(body.config or {}, "configurable"):
            raise ApiError(400, "context and config.configurable: give one of them, not both")
        chosen |= body.context
    elif isinstance(assistant.context, dict):
        chosen = {**assistant.context, **chosen}
    places = {
        "run_id": what.run_id,
        "graph_id": assistant.graph_id,
        "assistant_id": assistant.assistant_id,
        **({} if what.thread is None else {"thread_id": what.thread.id}),
    }
    chosen.pop("thread_id", None)
    return {
        **{key: given[key] for key in _CONFIG_KEYS if given.get(key) is not None},
        "configurable": {**_unreserved(chosen), **_checkpoint(body), **what.configurable, **places},
        "metadata": _metadata(what),
    }


def _unreserved(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """What a caller may choose: not who calls, even where nobody is asked, and nothing that is LangGraph's own."""
    for name, kind in _PLACES.items():
        if chosen.get(name) is not None and not isinstance(chosen[name], kind):
            told = "an object" if kind is dict else "a string"
            raise ApiError(422, f"config.configurable.{name}: {chosen[name]!r} must be {told}")
    return {key: value for key, value in chosen.items() if not key.startswith(_RESERVED)}


def _object(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = config.get(name)
    if value is not None and not isinstance(value, dict):
        raise ApiError(422, f"config.{name}: {value!r} must be an object")
    return dict(value or {})


def _context(what: Submission) -> Any:
    """What the graph's nodes get as their runtime's context.

    `config.configurable` is what it was called once: where there is no context, that is one. Of either, what the
    graph's context does not have is left out, since a dataclass would refuse it.
    """
    body = what.body
    if body.context is not None and not isinstance(body.context, dict):
        return body.context
    given = _object(body.config or {}, "configurable") if body.context is None else body.context
    context = {**what.assistant.context, **given}
    known = context.keys() if what.context_fields is None else what.context_fields
    return {name: value for name, value in context.items() if name in known} or None


def _checkpoint(body: StatelessRunCreate) -> dict[str, Any]:
    """The place in the thread's history that the run goes on from."""
    if not isinstance(body, RunCreate):
        return {}
    checkpoint = body.checkpoint or Checkpoint()
    given = {
        "checkpoint_id": checkpoint.checkpoint_id or body.checkpoint_id,
        "checkpoint_ns": checkpoint.checkpoint_ns,
        "checkpoint_map": checkpoint.checkpoint_map,
    }
    return {key: value for key, value in given.items() if value}


def _durability(body: StatelessRunCreate) -> Any:
    if body.durability is None and body.checkpoint_during is not None:
        return "async" if body.checkpoint_during else "exit"
    return body.durability


def configurable_headers(headers: Mapping[str, str], rules: HeaderRules) -> dict[str, str]:
    """The headers that a graph is told."""
    return {name: value for name, value in headers.items() if rules.admits(name)}
