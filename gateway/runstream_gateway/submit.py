"""From the body of a run's creation to what is enqueued."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from runstream import Command, Document, RunSpec, Send
from runstream.command import NOT_GIVEN
from runstream.request import OUTPUT_KEYS
from runstream_gateway.assistants import Assistant
from runstream_gateway.bodies import RunCommand, RunCreate, StatelessRunCreate, Strategy, checkpoint_in
from runstream_gateway.errors import ApiError
from runstream_gateway.graph_config import GraphConfig, object_in, of_caller
from runstream_gateway.marks import MARKS, Marks, pregel_modes
from runstream_gateway.metadata import check_metadata
from runstream_worker.start_checks import check_names_root

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
        headers: the request headers that the graph is passed.
        caller: the gateway's entries in the graph's `configurable` on who calls.
        context_fields: what the graph's context has; None where it may have anything.
    """

    run_id: str
    body: StatelessRunCreate
    assistant: Assistant
    thread: Document | None
    metadata: Mapping[str, Any]
    headers: Mapping[str, str]
    caller: Mapping[str, Any]
    context_fields: Collection[str] | None = None


def run_spec(what: Submission, *, retention: float | None) -> RunSpec:
    """What is to be enqueued.

    Raises:
        ApiError: 400, parts of the request exclude each other; 422, something is not as it has to be.
    """
    body, config = what.body, _graph_config(what)
    return RunSpec(
        what.assistant.graph_id,
        _given(body.input, body.command),
        {
            "run_id": what.run_id,
            "thread_id": None if what.thread is None else what.thread.id,
            "config": {**config.to_dict(what.context_fields), "metadata": _metadata(what)},
            "context": config.context(what.context_fields),
            "metadata": {**_metadata(what), MARKS: _marks(what, config).model_dump(mode="json")},
            "stream_mode": pregel_modes(body.stream_mode),
            "subgraphs": bool(body.stream_subgraphs),
            # What the output schema hides is the graph's own business: streams and results do not show it.
            "output_keys": OUTPUT_KEYS,
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
    of_config = object_in(what.body.config or {}, "metadata")
    check_metadata(of_config, "config.metadata")
    merged = of_caller({**what.assistant.metadata, **thread, **of_config, **what.metadata})
    return {**merged, "assistant_id": what.assistant.assistant_id, "graph_id": what.assistant.graph_id}


def _marks(what: Submission, config: GraphConfig) -> Marks:
    body = what.body
    return Marks(
        assistant_id=what.assistant.assistant_id,
        stream_mode=tuple(body.stream_mode),
        multitask_strategy=_strategy(body),
        stateless=what.thread is None,
        feedback_keys=tuple(body.feedback_keys or ()),
        told=(*config.passed_headers, *config.caller),
    )


def _graph_config(what: Submission) -> GraphConfig:
    assistant, thread = what.assistant, what.thread
    places = {
        **({} if thread is None else named_checkpoint(what.body)),
        "run_id": what.run_id,
        "graph_id": assistant.graph_id,
        "assistant_id": assistant.assistant_id,
        **({} if thread is None else {"thread_id": thread.id}),
    }
    return GraphConfig(
        assistant=assistant.config,
        assistant_context=assistant.context,
        request=what.body.config or {},
        request_context=what.body.context,
        headers=what.headers,
        caller=what.caller,
        places=places,
    )


def named_checkpoint(body: StatelessRunCreate) -> dict[str, Any]:
    """Return the place in the thread's history that a run goes on from; empty where the request names none.

    A request may also name it where LangGraph has it, in `config.configurable`; an assistant may not.

    Raises:
        ApiError: 422, what is in `config.configurable` names no checkpoint.
        InvalidRequest: a subgraph's checkpoint is named, and that of the graph itself is not.
    """
    beside = {} if body.checkpoint_id is None else {"checkpoint_id": body.checkpoint_id}
    in_body = {} if body.checkpoint is None else body.checkpoint.named()
    named = {**_named_in_config(body), **beside, **in_body}
    check_names_root(named)
    return named


def _named_in_config(body: StatelessRunCreate) -> dict[str, Any]:
    chosen = object_in(body.config or {}, "configurable")
    for name, kind in _PLACES.items():
        if chosen.get(name) is not None and not isinstance(chosen[name], kind):
            expected = "an object" if kind is dict else "a string"
            raise ApiError(422, f"config.configurable.{name}: {chosen[name]!r} must be {expected}")
    return checkpoint_in(chosen, "config", "configurable").named()


def _durability(body: StatelessRunCreate) -> Any:
    if body.durability is None and body.checkpoint_during is not None:
        return "async" if body.checkpoint_during else "exit"
    return body.durability
