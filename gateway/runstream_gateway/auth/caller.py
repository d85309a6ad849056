"""Who calls, and what of the things that there are they may see."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from runstream_gateway.errors import ApiError

_DEEPEST = 2


@dataclass(frozen=True)
class Limits:
    """How much a caller may do; None is no limit.

    Attributes:
        request_bytes: the size of a request's body.
        streams: how many streams (and waiting requests) may be open at a time, on all gateways together.
        runs: how many runs may be there that have not ended.
        rate: how many requests a second, in the long run, on all gateways together.
        burst: how many requests at once, after a rest; as many as in a second when left out.
        stored_bytes: how many bytes of threads, assistants, runs and webhooks may be kept.
        thread_bytes: how many of these a single thread may have.
        threads, assistants, kept_runs: how many may be kept; of runs, those that have ended, too.
        webhooks: how many may be kept that have not been taken.
    """

    request_bytes: int | None = None
    streams: int | None = None
    runs: int | None = None
    rate: float | None = None
    burst: int | None = None
    stored_bytes: int | None = None
    thread_bytes: int | None = None
    threads: int | None = None
    assistants: int | None = None
    kept_runs: int | None = None
    webhooks: int | None = None


NO_LIMITS = Limits()


@dataclass(frozen=True)
class Scope:
    """The one thing that a read token is for: a thread, or a single run of it.

    Attributes:
        thread_id: the thread.
        run_id: the run; None for the whole thread.
        filter: what the thread's metadata has to match, as it did for whoever the token was made for. A thread of the
            same id that is somebody else's is none of its business.
        expires_at: when the token ends, in seconds since 1970: a stream that was opened with it must not go on.
    """

    thread_id: str
    run_id: str | None = None
    filter: Mapping[str, Any] = field(default_factory=dict)
    expires_at: float = field(default=math.inf, compare=False)


@dataclass(frozen=True)
class Caller:
    """Whoever makes a request.

    Attributes:
        identity: who it is; empty where nobody is asked.
        display_name: how it is called.
        permissions: what the authentication says it has.
        user: all that is known of it, as JSON: what graphs find as `langgraph_auth_user`.
        scope: the one thing that it may read, if it came with a read token; it may do nothing else.
        key_id: the API key that it came with; also of a read token, whose maker came with one.
        limits: how much it may do.
        principal: the user object that a project's handlers get as `ctx.user`.
    """

    identity: str
    display_name: str = ""
    permissions: tuple[str, ...] = ()
    user: Mapping[str, Any] = field(default_factory=dict, compare=False)
    scope: Scope | None = None
    key_id: str | None = None
    limits: Limits = NO_LIMITS
    principal: Any = field(default=None, compare=False, repr=False)


class Filter:
    """What the metadata of a thing must have so that the caller may know of it.

    Args:
        conditions: as authorization handlers of LangGraph return them: `{"owner": "u1"}`, `{"owner": {"$eq": "u1"}}`,
            `{"members": {"$contains": "u1"}}` or of a list, all of which must hold; `$and` and `$or` with lists of
            at least two such. None and an empty one are no restriction; such a filter is false.

    Raises:
        ApiError: (500) it is none of these. A filter that is not understood must not let anything through.
    """

    __slots__ = ("conditions",)

    def __init__(self, conditions: Mapping[str, Any] | None = None) -> None:
        self.conditions: dict[str, Any] = _as_json(conditions or {})
        _check(self.conditions, 0)

    def matches(self, metadata: Mapping[str, Any] | None) -> bool:
        """Whether a thing with this metadata is there for the caller."""
        return _matches(self.conditions, metadata or {})

    def __bool__(self) -> bool:
        return bool(self.conditions)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Filter) and self.conditions == other.conditions

    def __hash__(self) -> int:
        return hash(json.dumps(self.conditions, sort_keys=True))

    def __repr__(self) -> str:
        return f"Filter({self.conditions!r})"


def _matches(conditions: Mapping[str, Any], metadata: Mapping[str, Any]) -> bool:
    return all(_holds(key, wanted, metadata) for key, wanted in conditions.items())


def _holds(key: str, wanted: Any, metadata: Mapping[str, Any]) -> bool:
    match key:
        case "$and":
            return all(_matches(one, metadata) for one in wanted)
        case "$or":
            return any(_matches(one, metadata) for one in wanted)
    if key not in metadata:
        return False
    found = metadata[key]
    operator, value = next(iter(wanted.items())) if isinstance(wanted, dict) else ("$eq", wanted)
    if operator == "$eq":
        return bool(found == value)
    values = value if isinstance(value, list) else [value]
    return isinstance(found, list) and _has_all(found, values)


def _has_all(found: list[Any], values: list[Any]) -> bool:
    """Whether all of these are in a list. Texts and numbers are looked up, so that long lists are no product."""
    plain = {one for one in found if not isinstance(one, dict | list)}
    return all(one in found if isinstance(one, dict | list) else one in plain for one in values)


def _check(conditions: Any, depth: int) -> None:
    if depth > _DEEPEST:
        raise _bad(f"goes deeper than {_DEEPEST} levels")
    if not isinstance(conditions, dict):
        raise _bad(f"has {type(conditions).__name__} where an object of conditions has to be")
    for key, wanted in conditions.items():
        if key in ("$and", "$or"):
            if not isinstance(wanted, list) or len(wanted) < 2:
                raise _bad(f"has a {key} without a list of at least two")
            for one in wanted:
                # `{}` in an $or would hold for everything.
                if not one:
                    raise _bad(f"has an empty part in {key}")
                _check(one, depth + 1)
        elif key.startswith("$"):
            raise _bad(f"has an operator {key!r}; there are $and and $or")
        elif isinstance(wanted, dict) and list(wanted) not in (["$eq"], ["$contains"]):
            raise _bad(f"has {sorted(wanted)} for {key!r}; there is $eq or $contains, one of them")


def _bad(problem: str) -> ApiError:
    return ApiError(500, f"the filter that an authorization handler returned {problem}")


def _as_json(value: Any) -> Any:
    """The value as it is in metadata, where ids, for one, are text."""
    try:
        return json.loads(json.dumps(value, default=str))
    except (TypeError, ValueError) as error:
        raise _bad(f"is no JSON: {error}") from error
