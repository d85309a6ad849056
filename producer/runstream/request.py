"""What a producer asks for: checked at `enqueue`, written as JSON, read again by the worker.

The options are the parameters of LangGraph's `Pregel.astream`, by the same names and with the same meanings, and those
of the run itself.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, TypedDict, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from runstream.characters import well_formed
from runstream.command import command_to_jsonable, is_command
from runstream.errors import InvalidRequest
from runstream.ids import check_checkpoint, check_id
from runstream.jsonable import to_jsonable
from runstream.model import STRATEGIES, STREAM_MODES, Strategy, StreamMode, check_run_id, new_run_id
from runstream.settings import check_number

_LONGEST_GRAPH_NAME = 255
OUTPUT_KEYS = "__output__"
"""In place of `output_keys`: the channels of the graph's output schema, whichever they are."""
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_LONGEST_REASON = 1000
DEFAULT_ATTEMPTS = 3
"""How many workers may die with a run whose producer says nothing."""
_CONFIG_KEYS = ("configurable", "tags", "metadata", "recursion_limit", "run_name", "max_concurrency")


class RunOptions(TypedDict, total=False):
    """The options of `Client.enqueue`; every one may be left out.

    `config` to `version` are those of `Pregel.astream`. `config` takes `configurable`, `tags`, `metadata`,
    `recursion_limit`, `run_name` and `max_concurrency`.

    Attributes:
        run_id: a UUID; the same id with the same request again is the same run.
        idempotency_key: the same key with the same request again is the same run, whatever its id.
        thread_id: LangGraph's conversation; each run has one of its own unless told otherwise. LangGraph's own place
            for it, `config["configurable"]["thread_id"]`, will do as well.
        metadata: kept in the run's record.
        delay: seconds, or a timedelta, until the run may start.
        start_at: an aware datetime at which the run may start.
        timeout: seconds, or a timedelta, that an attempt may take.
        start_within: seconds, or a timedelta, after it is due within which a worker has to take the run; else it
            ends as `lost`. `ClientSettings.queued_ttl` when left out. Once it has begun, it waits as long for each
            further attempt, and a day at least.
        multitask_strategy: what happens if a run is on the thread already. `enqueue` (the default): this one waits
            for it; `reject`: `ThreadBusy`; `interrupt`: the other is stopped, and this one goes on from what it has
            saved; `rollback`: the other is stopped, and what it has saved is removed first.
        max_attempts: how many workers may die with the run before it ends as `lost`; 3 when left out.
        restartable: whether a run that has no checkpoints may start over when its worker dies; else it ends as `lost`.
        continues: the id of a run on this thread that ended early, or ids of several. If the thread's last checkpoint
            is of one of these, this run goes on from there, and its input, which has been saved by then, is not given
            to the graph again.
        strict_json: whether a value that has no JSON form ends the run with an `EncodingError`; otherwise a marker
            stands in its place. The worker's setting when left out.
        retention: seconds, or a timedelta, that record and stream are kept after the end.
    """

    config: Mapping[str, Any] | None
    context: Any
    stream_mode: StreamMode | Sequence[StreamMode] | None
    print_mode: StreamMode | Sequence[StreamMode]
    output_keys: str | Sequence[str] | None
    interrupt_before: Literal["*"] | Sequence[str] | None
    interrupt_after: Literal["*"] | Sequence[str] | None
    durability: Literal["sync", "async", "exit"] | None
    subgraphs: bool
    debug: bool | None
    version: Literal["v1", "v2"]
    run_id: str | None
    idempotency_key: str | None
    thread_id: str | None
    metadata: Mapping[str, Any] | None
    delay: float | timedelta | None
    start_at: datetime | None
    timeout: float | timedelta | None
    retention: float | timedelta | None
    start_within: float | timedelta | None
    multitask_strategy: Strategy
    max_attempts: int
    restartable: bool
    strict_json: bool | None
    continues: str | Sequence[str] | None


class RunRequest(BaseModel):
    """A request as it travels. `version` etc. are LangGraph's; `v` is the version of this format."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    v: Literal[1] = 1
    graph: str
    thread_id: str
    input: Any = None
    command: dict[str, Any] | None = None
    config: dict[str, Any] = Field(default_factory=dict)
    context: Any = None
    stream_mode: list[StreamMode]
    print_mode: list[StreamMode] = Field(default_factory=list)
    output_keys: str | list[str] | None = None
    interrupt_before: Literal["*"] | list[str] | None = None
    interrupt_after: Literal["*"] | list[str] | None = None
    durability: Literal["sync", "async", "exit"] | None = None
    subgraphs: bool = False
    debug: bool | None = None
    version: Literal["v1", "v2"] = "v1"
    timeout: float | None = None
    restartable: bool = False
    strict_json: bool | None = None
    continues: list[str] = Field(default_factory=list)


class PreparedRun(BaseModel):
    """A checked request and what only the queue needs to know of it. Times are in milliseconds."""

    model_config = ConfigDict(frozen=True)

    run_id: str
    request: RunRequest
    request_json: str
    digest: str
    metadata_json: str
    idempotency_key: str | None
    due: int
    due_is_absolute: bool
    retention: int | None
    queued_ttl: int | None
    strategy: Strategy
    max_attempts: int


def prepare(graph: str, input: object, options: Mapping[str, Any], *, max_bytes: int) -> PreparedRun:  # noqa: A002 - as astream calls it
    """Check a request and put it in the form in which it travels.

    Args:
        graph: the name of the graph.
        input: JSON, LangChain messages, a `Command`, or None.
        options: see `RunOptions`.
        max_bytes: the largest request, as JSON.

    Raises:
        InvalidRequest: something is not as it has to be.
    """
    _check_names(options)
    run_id = check_run_id(options["run_id"]) if options.get("run_id") is not None else new_run_id()
    thread_id = _thread(options)
    command = command_to_jsonable(input, "input") if is_command(input) else None
    fields: dict[str, Any] = {
        "graph": check_graph_name(graph),
        # The id is not part of the request: the same request under a key again is the same, though ids are made anew.
        "thread_id": thread_id or "",
        "input": None if command is not None else to_jsonable(input, "input"),
        "command": command,
        "config": _config(options.get("config")),
        "context": to_jsonable(options.get("context"), "context"),
        "stream_mode": _modes("stream_mode", options.get("stream_mode") or "values"),
        "print_mode": _modes("print_mode", options.get("print_mode") or ()),
        "timeout": _seconds("timeout", options.get("timeout")),
    }
    for name in ("output_keys", "interrupt_before", "interrupt_after"):
        fields[name] = _names(name, options.get(name))
    fields["continues"] = _run_ids("continues", options.get("continues"))
    for name in ("subgraphs", "debug", "restartable", "strict_json"):
        if options.get(name) is not None and not isinstance(options[name], bool):
            raise InvalidRequest(name, f"{options[name]!r} must be True or False")
    for name in ("durability", "subgraphs", "debug", "version", "restartable", "strict_json"):
        if options.get(name) is not None:
            fields[name] = options[name]
    metadata = _object("metadata", options.get("metadata"))
    request = _validated({**fields, "thread_id": thread_id or run_id})
    request_json = to_json(request)
    metadata_json = json.dumps(metadata)
    _check_size(len(request_json.encode()) + len(metadata_json), max_bytes)
    due, absolute = _due(options.get("delay"), options.get("start_at"))
    retention = _milliseconds("retention", options)
    return PreparedRun(
        run_id=run_id,
        request=request,
        request_json=request_json,
        digest=digest_of(request, thread_id, metadata),
        metadata_json=metadata_json,
        idempotency_key=_key("idempotency_key", options.get("idempotency_key")),
        due=due,
        due_is_absolute=absolute,
        retention=retention,
        queued_ttl=_milliseconds("start_within", options),
        strategy=_strategy(options.get("multitask_strategy") or "enqueue"),
        max_attempts=_attempts(options.get("max_attempts")),
    )


def to_json(request: RunRequest) -> str:
    """A request as it travels."""
    return request.model_dump_json(exclude_defaults=True)


def digest_of(request: RunRequest, thread_id: str | None, metadata: Mapping[str, Any]) -> str:
    """What tells one request from another under the same id or key; a thread that nobody chose is no part of it."""
    same = {**request.model_dump(mode="json"), "thread_id": thread_id or ""}
    if same["strict_json"] is None:
        del same["strict_json"]  # versions that do not know it make the same digest
    return hashlib.sha256(json.dumps([same, metadata], sort_keys=True).encode()).hexdigest()[:32]


def check_reason(reason: object) -> str:
    """The reason of a stop.

    Raises:
        InvalidRequest: it is no text, or too long.
    """
    if not isinstance(reason, str) or len(reason) > _LONGEST_REASON:
        told = f"{len(reason):,} characters" if isinstance(reason, str) else repr(reason)
        raise InvalidRequest("reason", f"{told}: must be text of at most {_LONGEST_REASON:,} characters")
    return well_formed(reason)


def check_thread_id(thread_id: object) -> str:
    """A thread's id.

    Raises:
        InvalidRequest: no thread can have it.
    """
    return check_id("thread_id", thread_id)


def _check_names(options: Mapping[str, Any]) -> None:
    known = RunOptions.__annotations__
    for name in options:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1, 0.6)
            hint = f"did you mean {close[0]!r}?" if close else f"the options are {', '.join(known)}"
            if name in _CONFIG_KEYS:
                hint = f"it belongs in config: config={{{name!r}: ...}}"
            raise InvalidRequest(name, f"there is no such option; {hint}")


def _check_size(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise InvalidRequest(
            "input",
            f"the request with its metadata is {size:,} bytes of JSON and the limit is {max_bytes:,}; store what is "
            "large elsewhere and pass a reference, or raise ClientSettings.max_request_bytes",
        )


def check_graph_name(name: object) -> str:
    """Check the name of a graph: any text that UTF-8 can carry, of at most 255 bytes.

    Raises:
        InvalidRequest: no graph can have this name.
    """
    size = len(name.encode("utf-8", "surrogatepass")) if isinstance(name, str) else 0
    if not isinstance(name, str) or not 0 < size <= _LONGEST_GRAPH_NAME or _SURROGATE.search(name):
        shown = (
            f"{name[:40]!r}... ({size:,} bytes)" if isinstance(name, str) and size > _LONGEST_GRAPH_NAME else repr(name)
        )
        raise InvalidRequest("graph", f"{shown} must be a graph's name: 1 to {_LONGEST_GRAPH_NAME} bytes of UTF-8 text")
    return name


def _key(field: str, value: object) -> str | None:
    return None if value is None else check_id(field, value)


def _thread(options: Mapping[str, Any]) -> str | None:
    """The thread, from its option or from where LangGraph has it; from both only where they agree."""
    thread_id = _key("thread_id", options.get("thread_id"))
    config = options.get("config")
    configurable = config.get("configurable") if isinstance(config, Mapping) else None
    configured = configurable.get("thread_id") if isinstance(configurable, Mapping) else None
    if configured is None:
        return thread_id
    if thread_id not in (None, configured):
        raise InvalidRequest("thread_id", f"{thread_id!r}, but config.configurable.thread_id is {configured!r}")
    return _key("config.configurable.thread_id", configured)


def _modes(field: str, value: object) -> list[str]:
    modes = [value] if isinstance(value, str) else value
    if not isinstance(modes, Sequence):
        raise InvalidRequest(field, f"{value!r} must be a stream mode or a list of them: {', '.join(STREAM_MODES)}")
    for mode in modes:
        if mode not in STREAM_MODES:
            close = difflib.get_close_matches(str(mode), STREAM_MODES, 1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise InvalidRequest(field, f"{mode!r} is no stream mode; {hint}the modes are {', '.join(STREAM_MODES)}")
    if field == "print_mode" and "events" in modes:
        raise InvalidRequest(field, "'events' cannot be printed: LangGraph prints what `astream` emits")
    return list(dict.fromkeys(modes))


def _names(field: str, value: object) -> object:
    if value is None or isinstance(value, str):
        if value in (None, "*") or field == "output_keys":
            return value
        raise InvalidRequest(field, f"{value!r} must be '*' or a list of node names, such as [{value!r}]")
    if not isinstance(value, Sequence) or not all(isinstance(name, str) for name in value):
        raise InvalidRequest(field, f"{value!r} must be a list of names")
    return list(value)


def _run_ids(field: str, value: object) -> list[str]:
    given = [value] if isinstance(value, str | uuid.UUID) else ([] if value is None else value)
    if not isinstance(given, Sequence):
        raise InvalidRequest(field, f"{value!r} must be a run id or a list of them")
    return list(dict.fromkeys(check_run_id(run_id, field) for run_id in given))


def _object(field: str, value: object) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidRequest(field, f"{value!r} must be an object, such as {{'user': 'u-1'}}")
    return cast("dict[str, Any]", to_jsonable(dict(value), field))


def _config(value: object) -> dict[str, Any]:
    if isinstance(value, Mapping):
        for name in value:
            if name == "callbacks":
                raise InvalidRequest(
                    "config.callbacks", "callbacks cannot travel to a worker; attach them to the graph"
                )
            if name not in _CONFIG_KEYS:
                close = difflib.get_close_matches(str(name), _CONFIG_KEYS, 1)
                hint = f"did you mean {close[0]!r}? " if close else ""
                raise InvalidRequest(f"config.{name}", f"no such key; {hint}config takes {', '.join(_CONFIG_KEYS)}")
    config = _object("config", value)
    if isinstance(config.get("metadata"), dict) and "run_id" in config["metadata"]:
        raise InvalidRequest("config.metadata.run_id", "the worker puts the run's own id there; leave it out")
    _check_config("configurable", config, dict, "an object")
    check_checkpoint("config.configurable", config.get("configurable") or {})
    _check_config("metadata", config, dict, "an object")
    _check_config("tags", config, list, "a list of strings")
    if any(not isinstance(tag, str) for tag in config.get("tags") or ()):
        raise InvalidRequest("config.tags", f"{config['tags']!r} must be a list of strings")
    _check_config("run_name", config, str, "a string")
    for name in ("recursion_limit", "max_concurrency"):
        _check_config(name, config, int, "a whole number over 0")
        if config.get(name) is not None and config[name] < 1:
            raise InvalidRequest(f"config.{name}", f"{config[name]!r} must be a whole number over 0")
    return {name: part for name, part in config.items() if part is not None}


def _check_config(name: str, config: Mapping[str, Any], kind: type, told: str) -> None:
    part = config.get(name)
    if part is not None and (not isinstance(part, kind) or isinstance(part, bool)):
        raise InvalidRequest(f"config.{name}", f"{part!r} must be {told}")


def _seconds(field: str, value: object) -> float | None:
    if value is None:
        return None
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < 1e9:
        raise InvalidRequest(field, f"{value!r} must be a number of seconds over 0, or a timedelta")
    return float(seconds)


def _milliseconds(field: str, options: Mapping[str, Any]) -> int | None:
    seconds = _seconds(field, options.get(field))
    return None if seconds is None else max(round(seconds * 1000), 1)


def _strategy(value: object) -> Strategy:
    if value not in STRATEGIES:
        raise InvalidRequest("multitask_strategy", f"{value!r} is no strategy; they are {', '.join(STRATEGIES)}")
    return value


def _attempts(value: object) -> int:
    if value is None:
        return DEFAULT_ATTEMPTS
    check_number("max_attempts", value, least=1, most=1000, whole=True)
    return cast("int", value)


def _due(delay: object, start_at: object) -> tuple[int, bool]:
    if start_at is None:
        return (0, False) if delay in (None, 0) else (round(cast("float", _seconds("delay", delay)) * 1000), False)
    if delay is not None:
        raise InvalidRequest("start_at", "give a delay or a time, not both")
    if not isinstance(start_at, datetime) or start_at.tzinfo is None:
        raise InvalidRequest("start_at", f"{start_at!r} must be a datetime with a time zone, such as datetime.now(UTC)")
    return round(start_at.timestamp() * 1000), True


def _validated(fields: dict[str, Any]) -> RunRequest:
    try:
        return RunRequest.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InvalidRequest(field, f"{first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}") from None
