"""How checkpoints, channel values and writes are spelled in a thread's hash.

A field's name tells what it is by its first letter; its parts are separated by zero bytes, which none of them has. What
scripts look into is JSON, on one line whatever it holds; what only the serialiser understands comes behind it.

    c <ns> 0 <id>                       head (JSON), line break, checkpoint, metadata
    b <ns> 0 <channel> 0 <version>      `=` type, line break, bytes; or `*` type, line break, digests of pieces
    p <digest>                          a piece of a value
    w <ns> 0 <id> 0 <task> 0 <index>    channel, type, task path and run (JSON), line break, bytes
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    PendingWrite,
    writes_sort_key,
)
from langgraph.checkpoint.serde.base import SerializerProtocol
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from runstream.errors import InvalidRequest, ProtocolError
from runstream.ids import check_checkpoint
from runstream_worker.redis_saver.pieces import Cut

_SMALL_TEXT = 64
"""Texts up to this length stay in the checkpoint, as numbers do; a value of its own would take more room."""
_VERSION_TYPES = {"i": int, "f": float, "s": str}


class Place(NamedTuple):
    """Where a checkpoint is within its thread."""

    namespace: str
    checkpoint_id: str

    @property
    def name(self) -> bytes:
        """The checkpoint's field; where the id is empty, what the newest one of the namespace is asked for by."""
        return _name("c", self.namespace, self.checkpoint_id)

    @classmethod
    def of(cls, name: bytes) -> Place:
        """The reverse of `name`.

        Raises:
            ProtocolError: it is no name of a checkpoint.
        """
        return cls(*_parts(name, 2))

    @classmethod
    def of_config(cls, config: RunnableConfig) -> Place:
        """The place that a config names; an empty id stands for the newest checkpoint of the namespace.

        Raises:
            InvalidRequest: the id or the namespace is none.
        """
        chosen = config["configurable"]
        check_checkpoint("configurable", chosen)
        return cls(chosen.get("checkpoint_ns") or "", chosen.get("checkpoint_id") or "")

    def value_name(self, channel: str, version: str | float) -> bytes:
        """The field of a channel's value."""
        return _name("b", self.namespace, channel, _version(version))

    def write_name(self, task_id: str, index: int) -> bytes:
        """The field of a write."""
        return _name("w", self.namespace, self.checkpoint_id, task_id, str(index))

    def config(self, thread_id: str) -> RunnableConfig:
        """What LangGraph asks for this checkpoint with."""
        return {
            "configurable": {
                "thread_id": thread_id,
                "checkpoint_ns": self.namespace,
                "checkpoint_id": self.checkpoint_id,
            }
        }


class _Head(BaseModel):
    """The head of a checkpoint's row.

    Attributes:
        p: the parent's id; empty where there is none.
        v: the version of each channel, behind a letter for its type.
        t: the types of checkpoint and metadata, as the serialiser names them.
        n: the length of the checkpoint, in bytes.
        r: the run that wrote it; empty where none is known.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    p: str
    v: dict[str, Annotated[str, Field(pattern=r"^[ifs]")]]
    t: Annotated[list[str], Field(min_length=2, max_length=2)]
    n: Annotated[int, Field(ge=0)]
    r: str


class Row:
    """A checkpoint's row, read.

    Raises:
        ProtocolError: it is none.
    """

    def __init__(self, data: bytes) -> None:
        head, _, self._body = data.partition(b"\n")
        try:
            self._head = _Head.model_validate_json(head)
        except ValidationError as error:
            raise _unreadable("a checkpoint", error) from None
        if self._head.n > len(self._body):
            raise ProtocolError(f"a checkpoint has {len(self._body)} bytes, and its head says {self._head.n} or more")

    @property
    def parent(self) -> str:
        """The parent's id; empty where there is none."""
        return self._head.p

    @property
    def run_id(self) -> str:
        """The run that wrote it; empty where none is known."""
        return self._head.r

    @property
    def versions(self) -> ChannelVersions:
        """The checkpoint's `channel_versions`."""
        return {channel: _VERSION_TYPES[text[0]](text[1:]) for channel, text in self._head.v.items()}

    def checkpoint(self, serde: SerializerProtocol) -> dict[str, Any]:
        """The checkpoint; of its values only those that are small."""
        return cast("dict[str, Any]", serde.loads_typed((self._head.t[0], self._body[: self._head.n])))

    def metadata(self, serde: SerializerProtocol) -> CheckpointMetadata:
        """Its metadata."""
        return cast("CheckpointMetadata", serde.loads_typed((self._head.t[1], self._body[self._head.n :])))


class Loaded(NamedTuple):
    """A checkpoint with all that belongs to it, as `checkpoint_load.lua` returns it."""

    name: bytes
    row: bytes
    values: list[bytes]
    writes: list[bytes]
    has_parent: int

    @property
    def size(self) -> int:
        """How many bytes it has."""
        return len(self.row) + sum(map(len, self.values)) + sum(map(len, self.writes))

    def read(self, serde: SerializerProtocol, thread_id: str) -> CheckpointTuple:
        """As LangGraph wants it."""
        place, row = Place.of(self.name), Row(self.row)
        checkpoint = row.checkpoint(serde)
        versions = row.versions
        values = {channel.decode(): _loads(serde, value) for channel, value in _pairs(self.values)}
        values |= checkpoint["channel_values"]
        # In the order of the versions, with which other checkpointers give them, too.
        checkpoint["channel_values"] = {channel: values[channel] for channel in versions if channel in values}
        checkpoint["channel_versions"] = versions
        return CheckpointTuple(
            place.config(thread_id),
            cast("Checkpoint", checkpoint),
            row.metadata(serde),
            place._replace(checkpoint_id=row.parent).config(thread_id) if self.has_parent else None,
            self._writes(serde),
        )

    def _writes(self, serde: SerializerProtocol) -> list[PendingWrite]:
        found = []
        for name, data in _pairs(self.writes):
            _, _, task_id, index = _parts(name, 4)
            (channel, kind, path, _), value = _read_write(data)
            found.append((writes_sort_key(path, task_id, int(index)), task_id, channel, (kind, value)))
        found.sort(key=lambda write: write[0])
        return [(task_id, channel, serde.loads_typed(typed)) for _, task_id, channel, typed in found]


def dump_row(
    serde: SerializerProtocol,
    checkpoint: Checkpoint,
    metadata: Mapping[str, Any],
    *,
    parent: str,
    run_id: str,
) -> bytes:
    """A checkpoint's row: without its versions, which are in the head, and with only those values that are small."""
    values = {channel: value for channel, value in checkpoint["channel_values"].items() if is_small(value)}
    rest = {**checkpoint, "channel_values": values}
    del rest["channel_versions"]
    kind, body = serde.dumps_typed(rest)
    metadata_kind, metadata_body = serde.dumps_typed(metadata)
    head = {
        "p": parent,
        "v": {channel: _version(version) for channel, version in checkpoint["channel_versions"].items()},
        "t": [kind, metadata_kind],
        "n": len(body),
        "r": run_id,
    }
    return json.dumps(head, separators=(",", ":")).encode() + b"\n" + body + metadata_body


def dump_value(serde: SerializerProtocol, value: Any) -> bytes:
    """A channel's value, whole."""
    kind, data = serde.dumps_typed(value)
    return b"=" + kind.encode() + b"\n" + data


def dump_cut(cut: Cut) -> bytes:
    """A channel's value that is kept in pieces."""
    return b"*msgpack\n" + bytes([len(cut.lead)]) + cut.lead + b"".join(cut.refs)


def dump_write(serde: SerializerProtocol, channel: str, value: Any, task_path: str, run_id: str) -> bytes:
    """A write, and the run that it is of; empty outside of a run."""
    kind, data = serde.dumps_typed(value)
    return json.dumps([channel, kind, task_path, run_id], separators=(",", ":")).encode() + b"\n" + data


def run_of_write(data: bytes) -> str:
    """The run that a write is of: perhaps another one than the checkpoint's, which it answers or goes on from."""
    return _read_write(data)[0][3]


def write_index(channel: str, position: int) -> int:
    """The number of a write within its task: what LangGraph writes itself (errors, interrupts) has its own."""
    return WRITES_IDX_MAP.get(channel, position)


def is_small(value: Any) -> bool:
    """Whether a value stays in the checkpoint."""
    return value is None or type(value) in (bool, int, float) or (type(value) is str and len(value) <= _SMALL_TEXT)


def _version(version: str | float) -> str:
    """A version as text that remembers its type."""
    for letter, kind in _VERSION_TYPES.items():
        if type(version) is kind:
            return f"{letter}{version!r}" if kind is float else f"{letter}{version}"
    raise ProtocolError(f"channel_versions: {version!r} is a {type(version).__name__}; versions are str, int or float")


def _loads(serde: SerializerProtocol, value: bytes) -> Any:
    kind, _, data = value.partition(b"\n")
    return serde.loads_typed((kind.decode(), data))


def _pairs(flat: list[bytes]) -> list[tuple[bytes, bytes]]:
    return list(zip(flat[::2], flat[1::2], strict=True))


_WRITE_HEAD: TypeAdapter[tuple[str, str, str, str]] = TypeAdapter(tuple[str, str, str, str])


def _read_write(data: bytes) -> tuple[tuple[str, str, str, str], bytes]:
    """A write's channel, type, task path and run, and the value's bytes."""
    head, _, value = data.partition(b"\n")
    try:
        return _WRITE_HEAD.validate_json(head), value
    except ValidationError as error:
        raise _unreadable("a write", error) from None


def _unreadable(what: str, error: ValidationError) -> ProtocolError:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"]) or "head"
    return ProtocolError(f"{what} in Redis cannot be read: {place}: {first['msg']}")


def _name(kind: str, *parts: str) -> bytes:
    """The name of a field. A part with the separator in it would be another field's name."""
    for part in parts:
        if "\0" in part:
            raise InvalidRequest("checkpoint", f"{part!r} must not have a zero byte: it is part of a name in Redis")
    try:
        return (kind + "\0".join(parts)).encode()
    except UnicodeEncodeError:
        raise InvalidRequest("checkpoint", f"{parts!r} must be text, without halves of surrogate pairs") from None


def _parts(name: bytes, count: int) -> list[str]:
    parts = name.decode(errors="replace")[1:].split("\0")
    if len(parts) != count:
        raise ProtocolError(f"{name!r} in Redis is no name of a checkpoint or of a write")
    return parts
