"""Runs a graph with LangGraph alone, and tells what it emitted in JSON made without any code of the worker's."""

from __future__ import annotations

import dataclasses
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final

import orjson
from langchain_core.messages import BaseMessage
from langgraph.types import Send
from pydantic import BaseModel

from runstream import Client, Event

MODES: Final = ("values", "updates", "checkpoints", "tasks", "debug", "messages", "custom")

_RANDOM: Final = re.compile(
    r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"  # ids of tasks, checkpoints, messages, runs
    r"|\b[0-9a-f]{32}\b"  # ids of interrupts
    r"|\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?\+00:00"  # times
)


@dataclasses.dataclass
class Emitted:
    """What one run gave: its chunks as JSON values, in order, and what it raised in the end."""

    chunks: list[dict[str, Any]]
    error: tuple[str, str] | None = None


async def in_process(graph: Any, graph_input: Any, config: Mapping[str, Any], **options: Any) -> Emitted:
    """What `astream` emits and raises here."""
    emitted = Emitted([])
    # As the worker does; the two ids are as random as any others.
    config = {**config, "metadata": {**config.get("metadata", {}), "run_id": str(uuid.uuid4())}}
    stream = graph.astream(graph_input, config, **options)
    try:
        async with aclosing(stream) as chunks:
            async for chunk in chunks:
                # At once: LangGraph goes on changing some of what it has emitted.
                emitted.chunks.append(as_json(_with_ids(_told(chunk, options))))
    except Exception as error:  # noqa: BLE001 - whatever the graph raises is compared
        emitted.error = type(error).__name__, str(error)
    return emitted


async def on_worker(client: Client, graph: str, graph_input: Any, config: Mapping[str, Any], **options: Any) -> Emitted:
    """What a worker publishes of the same run."""
    configurable = dict(config["configurable"])
    thread_id = configurable.pop("thread_id")
    run = await client.enqueue(
        graph, graph_input, config={**config, "configurable": configurable}, thread_id=thread_id, **options
    )
    events = [event async for event in client.tail(run.run_id)]
    assert (events[0].mode, events[-1].mode) == ("attempt", "end")
    told = events[-1].data.get("error")
    chunks = [_as_chunk(event) for event in events if event.is_chunk]
    return Emitted(chunks, None if told is None else (told["type"], told["message"]))


def _as_chunk(event: Event) -> dict[str, Any]:
    chunk = {"mode": event.mode, "ns": list(event.ns), "data": _without_checkpoint_ids(event)}
    return chunk if event.interrupts is None else {**chunk, "interrupts": list(event.interrupts)}


def _without_checkpoint_ids(event: Event) -> Any:
    """The worker adds two things to `debug`, as LangGraph's own server does; they only say again what is there."""
    data = event.data
    if event.mode != "debug" or data["type"] != "checkpoint":
        return data
    payload = dict(data["payload"])
    for added, source in (("checkpoint", "config"), ("parent_checkpoint", "parent_config")):
        config = payload.get(source)
        keys = ("thread_id", "checkpoint_ns", "checkpoint_id")
        assert payload.pop(added) == (config and {key: config["configurable"].get(key) for key in keys})
    return {**data, "payload": payload}


def _told(chunk: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """One of LangGraph's shapes as mode, namespace, data, and interrupts where it tells them apart."""
    if options.get("version") == "v2":
        told = {"mode": chunk["type"], "ns": chunk["ns"], "data": chunk["data"]}
        if "interrupts" in chunk:
            told["interrupts"] = chunk["interrupts"]
    else:
        ns: Sequence[str] = ()
        if options.get("subgraphs"):
            ns, *chunk = chunk
        mode, data = chunk
        told = {"mode": mode, "ns": ns, "data": data}
    if told["mode"] == "checkpoints":
        told["data"] = _with_public_configs(told["data"])
    elif told["mode"] == "debug" and told["data"]["type"] == "checkpoint":
        told["data"] = {**told["data"], "payload": _with_public_configs(told["data"]["payload"])}
    return told


def _with_ids(told: dict[str, Any]) -> dict[str, Any]:
    """Messages in an update get their ids when it is applied, which is before or after it is emitted, as it happens."""
    data = told["data"]["payload"] if told["mode"] == "debug" else told["data"]
    if told["mode"] in ("updates", "tasks", "debug") and isinstance(data, dict):
        for part in (data, *data.values()):
            for value in part.values() if isinstance(part, dict) else ():
                for message in value if isinstance(value, list) else (value,):
                    if isinstance(message, BaseMessage) and message.id is None:
                        message.id = str(uuid.uuid4())
    return told


def _with_public_configs(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Of the config in a checkpoint, what is not LangGraph's inner workings: it holds live objects."""
    told = dict(payload)
    for key in ("config", "parent_config"):
        if told.get(key):
            configurable = told[key]["configurable"]
            told[key] = {"configurable": {k: v for k, v in configurable.items() if not k.startswith("__pregel_")}}
    return told


def as_json(value: object) -> Any:
    """What a value is after a journey through JSON."""
    return orjson.loads(orjson.dumps(value, default=_plain))


def _plain(value: Any) -> Any:
    for classes, form in _FORMS:
        if isinstance(value, classes):
            return form(value)
    raise TypeError(f"the reference has no JSON for {type(value).__name__}")


_FORMS: Final[tuple[tuple[type | tuple[type, ...], Callable[[Any], Any]], ...]] = (
    (BaseMessage, lambda value: value.model_dump()),
    (BaseModel, lambda value: {name: getattr(value, name) for name in type(value).model_fields}),
    (BaseException, lambda value: {"error": type(value).__name__, "message": str(value)}),
    (Send, lambda value: {"node": value.node, "input": value.arg}),
    (Mapping, dict),
    ((tuple, set, frozenset), list),
)


def unordered(chunks: Sequence[object]) -> list[str]:
    """The same without the random ids and times, in an order that does not depend on when each came."""
    return sorted(_RANDOM.sub("<>", orjson.dumps(chunk, option=orjson.OPT_SORT_KEYS).decode()) for chunk in chunks)


def normalised(chunks: Sequence[object]) -> list[Any]:
    """The same with every random id or time replaced by the number of its first appearance in the sequence.

    So two sequences are equal only where the same things are the same in both.
    """
    numbers: dict[str, str] = {}

    def number(match: re.Match[str]) -> str:
        return numbers.setdefault(match[0], f"<{len(numbers)}>")

    return [orjson.loads(_RANDOM.sub(number, orjson.dumps(chunk).decode())) for chunk in chunks]
