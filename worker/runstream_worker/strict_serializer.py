"""LangGraph's serializer for checkpoints, which creates only objects of known classes from what it reads.

By default, `JsonPlusSerializer` imports and calls whatever class a stored value names, unless an environment variable
forbids it before LangGraph is imported. Whoever can write to the checkpoints' database could then execute code.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, TypeAlias

from langchain_core.load.load import Reviver
from langgraph._internal._serde import build_serde_allowlist
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph.state import CompiledStateGraph
from langgraph.pregel import Pregel

from runstream.errors import InvalidRequest

ClassName: TypeAlias = type | tuple[str, str] | str
"""A class, its module and name, or both as `module:Class`."""

_revive_message = Reviver(allowed_objects="messages")


class StrictSerializer(JsonPlusSerializer):
    """A serializer that creates objects of LangGraph's safe classes, and of those that are named.

    An object of another class is read as the data that it was stored with, and LangGraph logs a warning. Pickle is
    neither written nor read.

    Args:
        classes: further classes. A name stands for that class alone, not for a module's others.

    Raises:
        InvalidRequest: a name is no `module:Class`.
    """

    def __init__(self, classes: Iterable[ClassName] = ()) -> None:
        super().__init__(allowed_msgpack_modules=[class_key(each) for each in classes] or None)

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """Read a value.

        Values of the type `json`, which LangGraph wrote until 2024, become plain JSON, but for LangChain's messages.
        """
        kind, content = data
        return json.loads(content, object_hook=_message_or_data) if kind == "json" else super().loads_typed(data)


def class_key(name: ClassName) -> tuple[str, str]:
    """Return a class's module and name.

    Raises:
        InvalidRequest: the name is no `module:Class`.
    """
    if isinstance(name, type):
        return name.__module__, name.__name__
    parts = tuple(name.split(":") if isinstance(name, str) else name)
    if len(parts) != 2 or not all(parts):
        raise InvalidRequest("checkpoint_classes", f"{name!r} must be module:Class, such as my_agent.state:Order")
    return parts[0], parts[1]


def with_classes_of(saver: BaseCheckpointSaver[Any], graph: Pregel[Any, Any, Any, Any]) -> BaseCheckpointSaver[Any]:
    """Return a checkpointer that also creates objects of the classes that a graph's state is declared with.

    LangGraph does this itself only where its environment variable is set.
    """
    serde = saver.serde
    inner = serde.serde if isinstance(serde, EncryptedSerializer) else serde
    if not isinstance(inner, StrictSerializer):
        return saver
    graphs = [graph, *(subgraph for _, subgraph in graph.get_subgraphs(recurse=True))]
    return saver.with_allowlist(set().union(*map(_state_classes, graphs)))


def _state_classes(graph: Any) -> set[tuple[str, ...]]:
    # Any: a subgraph may be of a kind that declares nothing, such as a remote one.
    schemas: list[Any] = [getattr(graph, "context_schema", None)]
    if isinstance(graph, CompiledStateGraph):
        builder = graph.builder
        schemas += [builder.state_schema, builder.input_schema, builder.output_schema]
        schemas += [node.input_schema for node in builder.nodes.values()]
        schemas += [branch.input_schema for branches in builder.branches.values() for branch in branches.values()]
    return build_serde_allowlist(schemas=schemas, channels=getattr(graph, "channels", None))


def _message_or_data(value: dict[str, Any]) -> Any:
    try:
        return _revive_message(value)
    except (ValueError, NotImplementedError, TypeError):
        return value
