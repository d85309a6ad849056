"""What a graph looks like from outside: its schemas, its drawing, its subgraphs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from operator import methodcaller
from typing import Any, NotRequired, Required, get_args, get_origin, get_type_hints, is_typeddict

from langchain_core.utils.pydantic import create_model_v2
from langgraph.pregel.protocol import PregelProtocol
from pydantic import PydanticUserError, TypeAdapter
from pydantic_core import from_json

from runstream_gateway.errors import ApiError
from runstream_worker.encoding import JsonEncoder
from runstream_worker.graphs import Graph

_logger = logging.getLogger("runstream.gateway")

Schema = dict[str, Any]


async def schemas(graph: PregelProtocol[Any, Any, Any, Any]) -> dict[str, Schema | None]:
    """The JSON schemas of a graph, each of them null where there is none.

    They are made in a thread: for a large state that takes longer than streams may stand still.
    """
    return await asyncio.to_thread(_schemas, graph)


async def drawing(graph: Graph, xray: int | bool) -> dict[str, Any]:
    """The nodes and edges of a graph, those of its subgraphs too as far down as `xray` says.

    Raises:
        ApiError: 422, the graph is of a kind that cannot be drawn.
    """
    try:
        # In a thread: of a large graph it takes longer than streams may stand still.
        drawn = (await asyncio.to_thread(graph.get_graph, xray=xray)).to_json()
    except NotImplementedError:
        raise ApiError(422, "this graph cannot be drawn") from None
    for node in drawn["nodes"]:
        if isinstance(node.get("data"), dict):
            node["data"].pop("id", None)  # where the node's class is, which is nobody's business
    plain: dict[str, Any] = from_json(JsonEncoder().encode(drawn, "graph"))
    return plain


async def subgraphs(graph: Graph, namespace: str | None, *, recurse: bool) -> dict[str, dict[str, Schema | None]]:
    """The schemas of a graph's subgraphs by their namespaces.

    Args:
        graph: the graph above them.
        namespace: only this one, such as `parent|child`.
        recurse: also those of the subgraphs, and so on.
    """
    recurse = recurse or "|" in (namespace or "")
    return {
        name: await schemas(subgraph)
        async for name, subgraph in graph.aget_subgraphs(namespace=namespace, recurse=recurse)
    }


def _schemas(graph: Any) -> dict[str, Schema | None]:
    context = _first(graph, methodcaller("get_context_jsonschema"), lambda graph: _fields(graph.context_schema))
    return {
        "input_schema": _first(
            graph, methodcaller("get_input_jsonschema"), lambda graph: _fields(graph.builder.input_schema)
        ),
        "output_schema": _first(
            graph, methodcaller("get_output_jsonschema"), lambda graph: _fields(graph.builder.output_schema)
        ),
        "state_schema": _first(graph, _state_schema),
        "config_schema": context or {},
        "context_schema": context,
    }


def _first(graph: Any, *ways: Callable[[Any], Schema | None]) -> Schema | None:
    """The schema by the first way that leads to one."""
    # Any: a subgraph may be of a kind that has no schemas, such as a remote one.
    for way in ways:
        try:
            schema = way(graph)
            return None if schema is None else from_json(JsonEncoder().encode(schema, "schema"))
        except Exception as error:  # noqa: BLE001 - users' classes have a say in it, and the other schemas are good
            _logger.debug("graph %r has no schema by %r: %s", getattr(graph, "name", None), way, error)
    return None


def _state_schema(graph: Any) -> Schema:
    fields = {name: (_described(graph.channels[name].UpdateType), None) for name in graph.stream_channels_list}
    return create_model_v2(graph.get_name("State"), field_definitions=fields).model_json_schema()


def _fields(kind: Any) -> Schema:
    """The schema of a `TypedDict` that pydantic refuses, field by field.

    Before Python 3.12 it refuses all that come from `typing`, which most states do.
    """
    if not is_typeddict(kind):
        raise TypeError(f"{kind!r} is no TypedDict")
    fields: dict[str, Any] = {}
    for name, hint in get_type_hints(kind, include_extras=True).items():
        bare = get_args(hint)[0] if get_origin(hint) in (Required, NotRequired) else hint
        fields[name] = (_described(bare), ... if name in kind.__required_keys__ else None)
    return create_model_v2(kind.__name__, field_definitions=fields).model_json_schema()


def _described(kind: Any) -> Any:
    """The type, or anything where it has no schema."""
    try:
        TypeAdapter(kind).json_schema()
    except (PydanticUserError, TypeError, NameError):
        return Any
    return kind
