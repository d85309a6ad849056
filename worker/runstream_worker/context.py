"""The context that a graph's nodes get as `runtime.context`: what a caller gave, as far as the graph has it."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, is_typeddict

from langgraph.pregel import Pregel
from pydantic import BaseModel

_logger = logging.getLogger("runstream.worker")


def context_fields(graph: Pregel[Any, Any, Any, Any]) -> Collection[str] | None:
    """Return the names of the entries of a graph's context; None where it may have any."""
    kind: Any = graph.context_schema
    if kind is None:
        return None
    if is_typeddict(kind):
        return frozenset(kind.__annotations__)
    if is_dataclass(kind):
        return frozenset(field.name for field in fields(kind) if field.init)
    if isinstance(kind, type) and issubclass(kind, BaseModel) and kind.model_config.get("extra") != "allow":
        aliases = (field.alias for field in kind.model_fields.values() if field.alias)
        return frozenset(kind.model_fields).union(aliases)
    return None


def fitting_context(graph: Pregel[Any, Any, Any, Any], given: Any) -> Any:
    """Return the context to call a graph with, as LangGraph's server does.

    Without one it is empty, so that the defaults of the graph's `context_schema` hold. Entries that the schema does not
    have are left out: a dataclass would refuse them. Where others are missing that have no default, nothing is left
    out, so that the error names what was mistyped.
    """
    context = {} if given is None else given
    known = context_fields(graph)
    if known is None or not isinstance(context, dict):
        return context
    unknown = context.keys() - known
    if unknown and not _required(graph.context_schema) - context.keys():
        _logger.debug("graph %r: its context has no %s", graph.name, ", ".join(sorted(unknown)))
        return {name: value for name, value in context.items() if name in known}
    return context


def _required(kind: Any) -> set[str]:
    """The names without which a context cannot be made."""
    if is_dataclass(kind):
        plain = (field for field in fields(kind) if field.init and field.default is field.default_factory is MISSING)
        return {field.name for field in plain}
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {field.alias or name for name, field in kind.model_fields.items() if field.is_required()}
    return set()
