"""The bodies of requests, as LangGraph's clients send them: unknown fields are left alone, null is nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema, field_validator
from pydantic_core import PydanticCustomError

from runstream.errors import InvalidRequest
from runstream.ids import check_namespace
from runstream_gateway.errors import ApiError
from runstream_gateway.ids import UUID, one_spelling
from runstream_gateway.marks import ApiMode
from runstream_gateway.metadata import Metadata
from runstream_gateway.refusals import told

SortOrder = Literal["asc", "desc"]
Strategy = Literal["enqueue", "reject", "interrupt", "rollback"]
_MOST_NAMES = 1_000
_MOST_STEPS = 1_000
"""Each is a checkpoint that is written."""
_MOST_MODES = 50
_MOST_FEEDBACK_KEYS = 50
_LONGEST_FEEDBACK_KEY = 200


class Body(BaseModel):
    """A body. Python's client leaves out what is not given, JavaScript's may send null."""

    model_config = ConfigDict(extra="ignore")


def _fit_for_a_link(key: str) -> str:
    """A feedback key: what ends the path of its link."""
    if len(key.encode()) > _LONGEST_FEEDBACK_KEY:
        raise PydanticCustomError("feedback_key", f"must be at most {_LONGEST_FEEDBACK_KEY} bytes")
    if key in ("", ".", ".."):
        raise PydanticCustomError("feedback_key", "must be a name: clients leave this one out of a path")
    return key


Names = Annotated[list[str], Field(max_length=_MOST_NAMES)]


def _uuid(text: str) -> str:
    """A checkpoint's id in its one spelling: LangGraph's are UUIDs."""
    if not UUID.fullmatch(text):
        raise PydanticCustomError("uuid", "must be a UUID")
    return one_spelling(text)


def _namespace(text: str) -> str:
    try:
        return check_namespace("", text)
    except InvalidRequest:
        raise PydanticCustomError(
            "namespace", "must be text of at most 4096 characters, no control characters"
        ) from None


FeedbackKey = Annotated[str, AfterValidator(_fit_for_a_link)]
CheckpointId = Annotated[str, AfterValidator(_uuid), WithJsonSchema({"type": "string", "format": "uuid"})]
CheckpointNamespace = Annotated[str, AfterValidator(_namespace)]


class Checkpoint(Body):
    """A place in a thread's history. One that is not there is refused; none is meant where nothing is named."""

    thread_id: str | None = None
    checkpoint_id: CheckpointId | None = None
    checkpoint_ns: CheckpointNamespace | None = None
    checkpoint_map: Annotated[dict[CheckpointNamespace, CheckpointId], Field(max_length=100)] | None = None

    @field_validator("checkpoint_id", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return None if value == "" else value

    def named(self) -> dict[str, Any]:
        """Return what names a checkpoint, by LangGraph's names in `configurable`; empty where nothing does."""
        named = self.model_dump(exclude={"thread_id"}, exclude_none=True)
        return named if named.get("checkpoint_id") or named.get("checkpoint_map") else {}


def checkpoint_in(given: Mapping[str, Any], *path: str) -> Checkpoint:
    """Return the checkpoint that an object of a request names.

    Args:
        given: the object.
        path: where it is in the request, for error messages.

    Raises:
        ApiError: 422, it has a name of a checkpoint that is none.
    """
    try:
        return Checkpoint.model_validate(given)
    except ValidationError as error:
        problems = [{**each, "loc": ("body", *path, *each["loc"])} for each in error.errors()]
        body: Any = given
        for name in reversed(path):
            body = {name: body}
        raise ApiError(422, told(problems, body)) from None


class RunCommand(Body):
    """What a run does in place of taking an input: LangGraph's `Command`."""

    resume: Any = None
    update: dict[str, Any] | list[list[Any]] | None = None
    goto: str | dict[str, Any] | list[str | dict[str, Any]] | None = None


class StatelessRunCreate(Body):
    """A run that is given no thread."""

    assistant_id: str = Field(description="A graph's name or an assistant's UUID.", min_length=1)
    input: Any = None
    command: RunCommand | None = None
    config: dict[str, Any] | None = None
    checkpoint: Checkpoint | None = Field(default=None, description="A place in the history of the run's thread.")
    checkpoint_id: CheckpointId | None = None
    context: Any = None
    metadata: Metadata | None = None
    stream_mode: Annotated[list[ApiMode], Field(max_length=_MOST_MODES)] = ["values"]
    stream_subgraphs: bool | None = None
    stream_resumable: bool | None = Field(default=None, description="Every run is, so this changes nothing.")
    interrupt_before: Literal["*"] | Names | None = None
    interrupt_after: Literal["*"] | Names | None = None
    feedback_keys: list[FeedbackKey] | None = Field(default=None, max_length=_MOST_FEEDBACK_KEYS)
    webhook: str | None = Field(default=None, description="A URL that is told when the run has ended.")
    on_disconnect: Literal["cancel", "continue"] | None = None
    on_completion: Literal["delete", "keep"] | None = None
    after_seconds: float | None = Field(default=None, ge=0, lt=1e9)
    durability: Literal["sync", "async", "exit"] | None = None
    checkpoint_during: bool | None = Field(default=None, description="Older: true is async, false is exit.")

    @field_validator("stream_mode", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        if value is None:
            return ["values"]
        return [value] if isinstance(value, str) else value


class RunCreate(StatelessRunCreate):
    """A run on a thread."""

    multitask_strategy: Strategy | None = None
    if_not_exists: Literal["create", "reject"] | None = None


class Update(Body):
    """What a node wrote in a step of a thread that was elsewhere before."""

    values: dict[str, Any] | list[dict[str, Any]] | None = None
    as_node: str | None = None


class Superstep(Body):
    """A step of a thread that was elsewhere before."""

    updates: Annotated[list[Update], Field(max_length=_MOST_STEPS)] = []


class ThreadCreate(Body):
    """A new thread."""

    thread_id: str | None = None
    metadata: Metadata | None = None
    if_exists: Literal["raise", "do_nothing"] | None = None
    supersteps: list[Superstep] | None = Field(
        default=None,
        max_length=_MOST_STEPS,
        description="The states that it had elsewhere; `metadata.graph_id` says of which graph.",
    )
    ttl: Any = None


class ThreadPatch(Body):
    """What is merged into a thread's metadata, key by key."""

    metadata: Metadata | None = None
    ttl: Any = None


class ThreadSearch(Body):
    """Which threads are looked for."""

    metadata: dict[str, Any] | None = None
    values: dict[str, Any] | None = None
    ids: Names | None = None
    status: Literal["idle", "busy", "interrupted", "error"] | None = None
    limit: int = Field(default=10, ge=1, le=1000)
    offset: int = Field(default=0, ge=0)
    sort_by: Literal["thread_id", "status", "created_at", "updated_at", "state_updated_at"] | None = None
    sort_order: SortOrder | None = None
    select: Names | None = None
    extract: dict[str, str] | None = None

    @field_validator("limit", "offset", mode="before")
    @classmethod
    def _defaults(cls, value: object, info: Any) -> object:
        return {"limit": 10, "offset": 0}[info.field_name] if value is None else value


class ThreadCount(Body):
    """Which threads are counted."""

    metadata: dict[str, Any] | None = None
    values: dict[str, Any] | None = None
    status: Literal["idle", "busy", "interrupted", "error"] | None = None


class ThreadPrune(Body):
    """Threads to be removed, or of which the last state is to be kept only."""

    thread_ids: Names
    strategy: Literal["delete", "keep_latest"] = "delete"


class StateAt(Body):
    """Which state is wanted."""

    checkpoint: Checkpoint
    subgraphs: bool | None = None
    select: Names | None = None


class StateUpdate(Body):
    """An update of a thread's state."""

    values: dict[str, Any] | Annotated[list[dict[str, Any]], Field(max_length=_MOST_STEPS)] | None = None
    as_node: str | None = None
    checkpoint: Checkpoint | None = None
    checkpoint_id: CheckpointId | None = None


class HistorySearch(Body):
    """Which of a thread's states are wanted. `before` is a checkpoint, its id, or a config that names one."""

    limit: int = Field(default=10, ge=1, le=1000)
    before: str | dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    checkpoint: Checkpoint | None = None
    select: Names | None = None

    @field_validator("limit", mode="before")
    @classmethod
    def _default(cls, value: object) -> object:
        return 10 if value is None else value


class CancelMany(Body):
    """Which runs are to be cancelled: all of a status, or these of a thread."""

    status: Literal["pending", "running", "all"] | None = None
    thread_id: str | None = None
    run_ids: Names | None = None
