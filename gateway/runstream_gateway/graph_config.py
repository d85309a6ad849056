"""The config that graphs and their factories get: what a caller may write in it, and what only the gateway writes.

In `configurable` a graph finds what its callers chose for it, and beside that LangGraph's own names: where it runs
(`thread_id`, `checkpoint_id`, ...), who calls (`langgraph_auth_user`, ...) and what LangGraph passes to itself
(`__pregel_...`). Requests, assistants and headers are written by callers, so their entries under LangGraph's names are
dropped, and the gateway's own come last. Every config that a graph or a factory gets is made here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from runstream_gateway.errors import ApiError

AUTH_PREFIX: Final = "langgraph_auth_"
"""How the names begin under which LangGraph tells graphs who calls."""

_PLAIN_KEYS: Final = ("tags", "recursion_limit", "run_name", "max_concurrency")
_RESERVED_PREFIXES: Final = ("__", "checkpoint_", "langgraph_")
_RESERVED: Final = frozenset((
    "assistant_id", "counters_since_delta_snapshot", "cron_id", "graph_id", "run_id", "thread_id", "thread_ts",
))  # fmt: skip
_USER: Final = "user_id"


@dataclass(frozen=True)
class GraphConfig:
    """What makes up a graph's config.

    Attributes:
        assistant: the assistant's `config`.
        assistant_context: its `context`.
        request: the request's `config`.
        request_context: the request's `context`; only an object is mirrored in `configurable`.
        headers: the request headers that the graph is passed.
        caller: the gateway's entries on who calls; empty where nobody is asked.
        places: the gateway's entries on where the graph runs, checked.
    """

    assistant: Mapping[str, Any] = field(default_factory=dict)
    assistant_context: Any = None
    request: Mapping[str, Any] = field(default_factory=dict)
    request_context: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    caller: Mapping[str, Any] = field(default_factory=dict)
    places: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self, fields: Collection[str] | None = None) -> dict[str, Any]:
        """Return the config.

        Args:
            fields: the names of the graph's context; None where it has no schema and takes any.

        Raises:
            ApiError: 400, the request has both `context` and `config.configurable`; 422, one of them is no object.
        """
        given = {**self.assistant, **self.request}
        return {
            **{key: given[key] for key in _PLAIN_KEYS if given.get(key) is not None},
            "configurable": {
                **of_caller(self._chosen(fields)),
                **self.passed_headers,
                **self.caller,
                **self.places,
            },
        }

    @property
    def passed_headers(self) -> dict[str, str]:
        """The headers that the graph is passed: none stands for a place or a caller, `user_id` included."""
        return {name: value for name, value in of_caller(self.headers).items() if name.lower() != _USER}

    def context(self, fields: Collection[str] | None) -> Any:
        """Return what the nodes get as their runtime's context; None where there is none.

        `config.configurable` is what context was called once: without a context, it is one. Entries that the graph's
        context does not have are left out, since a dataclass would refuse them.

        Args:
            fields: the names of the graph's context; None where it has no schema and takes any.
        """
        if self.request_context is not None and not isinstance(self.request_context, dict):
            return self.request_context
        given = self.request_context
        if not given:
            given = of_caller(object_in(self.request, "configurable"))
            given |= {name: self.caller[name] for name in (_USER,) if name in given and name in self.caller}
        whole = {**(self.assistant_context or {}), **given}
        if fields is None:
            return of_caller(whole) or None
        return {name: value for name, value in whole.items() if name in fields and not _is_internal(name)} or None

    def _chosen(self, fields: Collection[str] | None) -> dict[str, Any]:
        """What the callers chose: the one that made the assistant, and before that the one that makes the request.

        A context is mirrored, as far as the graph has it; an empty one is none.
        """
        of_assistant, of_request = (object_in(each, "configurable") for each in (self.assistant, self.request))
        if isinstance(self.request_context, dict) and self.request_context:
            if of_request:
                raise ApiError(400, "context and config.configurable: give one of them, not both")
            mirrored = {**of_assistant, **self.request_context}
            return {name: value for name, value in mirrored.items() if fields is None or name in fields}
        of_context = self.assistant_context if isinstance(self.assistant_context, dict) else {}
        return {**of_context, **of_assistant, **of_request}


def of_caller(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries that a caller may write: none under a name that LangGraph or the gateway gives a meaning.

    Those are dropped, not refused: LangGraph's own clients send some of them along, such as `RemoteGraph` the metadata
    of the node that it is.
    """
    return {name: value for name, value in given.items() if not is_reserved(name)}


def is_reserved(name: str) -> bool:
    """Tell whether a name is LangGraph's or the gateway's."""
    return _is_internal(name) or name.lower().startswith(_RESERVED_PREFIXES) or name.lower() in _RESERVED


def object_in(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return an object in a config; empty where there is none.

    Raises:
        ApiError: 422, it is something else.
    """
    value = config.get(name)
    if value is not None and not isinstance(value, dict):
        raise ApiError(422, f"config.{name}: {value!r} must be an object")
    return dict(value or {})


def _is_internal(name: str) -> bool:
    """Whether a name says who calls, or is one that LangGraph passes to itself."""
    return name.lower().startswith(("__", AUTH_PREFIX))
