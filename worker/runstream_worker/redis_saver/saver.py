"""LangGraph's checkpoints in plain Redis (6.2 or later, or Valkey): no modules, no tables, one round trip per call."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal, Self, TypeVar, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
    get_checkpoint_id,
    get_serializable_checkpoint_metadata,
)
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from redis.asyncio import Redis

from runstream.connection import connect
from runstream.errors import InvalidRequest
from runstream.ids import check_checkpoint, check_id
from runstream.keys import Keys
from runstream.request import check_thread_id
from runstream_worker.redis_saver.fence import Fence
from runstream_worker.redis_saver.pieces import Cut, Sending, cut
from runstream_worker.redis_saver.rows import (
    Loaded,
    Place,
    Row,
    dump_cut,
    dump_row,
    dump_value,
    dump_write,
    is_small,
    run_of_write,
    write_index,
)
from runstream_worker.redis_saver.store import SHOULD_BE_THERE, Store, ValuesMissing
from runstream_worker.strict_serializer import ClassName, StrictSerializer

DEFAULT_TTL = 30 * 24 * 3600.0
_PAGE = 50
_LARGE = 128 * 1024
"""Bytes of a checkpoint from which on it is decoded in a thread."""
_LOADED_AT_ONCE = 1024 * 1024
_PATIENCE = 30.0
_ANSWER_WITHIN = 5.0
_T = TypeVar("_T")


class RedisSaver(BaseCheckpointSaver[str]):
    """Keeps checkpoints in Redis. To be made within a running event loop, which it belongs to.

    The methods without an `a` work from other threads only, such as a tool's that calls `graph.invoke`: they are
    executed in that loop.

    Args:
        redis: a client with `decode_responses=False`; it stays the caller's to close.
        keys: how keys are spelled.
        ttl: how long a thread is kept after it was last written to, in seconds.
        own_thread_ttl: the same for the thread of a run that was given none, whose id is the run's; else `ttl`.
        fenced: the runs are in this Redis, under these keys. Then an attempt that has lost its run cannot write.
        serde: turns values into bytes; a `StrictSerializer` by default, which creates objects of LangGraph's own
            classes, and of `classes`, only.
        classes: classes of the states that are kept, beyond those; for the default serializer.
        patience: how long a call goes on trying while Redis is away, in seconds; None is for ever, even if full; 0 is
            not at all.

    Raises:
        InvalidRequest: `ttl` is no time, or a name in `classes` is none.
    """

    def __init__(
        self,
        redis: Redis,
        keys: Keys,
        *,
        ttl: float = DEFAULT_TTL,
        own_thread_ttl: float | None = None,
        fenced: bool = False,
        serde: SerializerProtocol | None = None,
        classes: Iterable[ClassName] = (),
        patience: float | None = _PATIENCE,
    ) -> None:
        super().__init__(serde=StrictSerializer(classes) if serde is None else serde)
        if ttl <= 0:
            raise InvalidRequest("ttl", f"{ttl!r} must be more than 0 seconds")
        self._fenced = fenced
        self._is_patient = patience != 0
        self._store = Store(redis, keys, ttl=ttl, own_thread_ttl=own_thread_ttl or ttl, patience=patience)
        self._decoding = asyncio.Semaphore(1)
        self._loop = asyncio.get_running_loop()

    @classmethod
    @asynccontextmanager
    async def from_url(
        cls,
        url: str,
        *,
        namespace: str = "runstream",
        ttl: float = DEFAULT_TTL,
        own_thread_ttl: float | None = None,
        fenced: bool = False,
        serde: SerializerProtocol | None = None,
        classes: Iterable[ClassName] = (),
        connections: int = 10,
        patience: float | None = _PATIENCE,
    ) -> AsyncIterator[Self]:
        """A saver with connections of its own, for as long as the block lasts. Nothing is connected at first.

        Raises:
            InvalidRequest: the URL is none of Redis, the namespace is no word, or `ttl` is no time.
        """
        redis = connect(url, connections=connections, answer_within=_ANSWER_WITHIN)
        options: dict[str, Any] = {"fenced": fenced, "serde": serde, "classes": classes, "patience": patience}
        try:
            yield cls(redis, Keys(namespace), ttl=ttl, own_thread_ttl=own_thread_ttl, **options)
        finally:
            await redis.aclose()

    async def ping(self) -> None:
        """See whether Redis is there, at once.

        Raises:
            redis.exceptions.RedisError: it is not.
        """
        await self._store.ping()

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint that the config names, else the newest one of its thread and namespace."""
        thread_id = _thread_id(config)
        place = Place.of_config(config)
        found = await self._store.load(thread_id, [place.name])
        return await self._read(found[0], thread_id) if found else None

    async def _read(self, loaded: Loaded, thread_id: str) -> CheckpointTuple:
        """Decode a checkpoint. A large one is decoded in a thread: each of its messages is made by Python's code."""
        if loaded.size <= _LARGE:
            return loaded.read(self.serde, thread_id)
        async with self._decoding:
            return await asyncio.to_thread(loaded.read, self.serde, thread_id)

    async def ahas(self, config: RunnableConfig) -> bool:
        """Tell whether a checkpoint is there: the one that the config names, else any of its thread and namespace."""
        place = Place.of_config(config)
        if place.checkpoint_id:
            return await self._store.has(_thread_id(config), place.name)
        return bool(await self._store.names(_thread_id(config), place.namespace, before=None, limit=1))

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Checkpoints, the newest first, thread by thread where the config names none."""
        left = limit
        for thread_id in [_thread_id(config)] if config else await self._store.threads():
            async for names in self._pages(thread_id, config, before, left if not filter else None):
                kept = await self._matching(thread_id, names, filter)
                async for found in self._loaded(thread_id, kept[:left]):
                    yield await self._read(found, thread_id)
                    left = None if left is None else left - 1
                if left == 0:
                    return

    async def _loaded(self, thread_id: str, names: Sequence[bytes]) -> AsyncIterator[Loaded]:
        """Load checkpoints, as many at once as fit into a few megabytes, going by those before."""
        at, count = 0, 1
        while at < len(names):
            loaded = await self._store.load(thread_id, names[at : at + count])
            for found in loaded:
                yield found
            at += count
            size = max((found.size for found in loaded), default=1)
            count = min(2 * count, max(1, _LOADED_AT_ONCE // max(1, size)))

    async def _pages(
        self, thread_id: str, config: RunnableConfig | None, before: RunnableConfig | None, limit: int | None
    ) -> AsyncIterator[Sequence[bytes]]:
        """The names of the checkpoints to look at, page by page."""
        wanted = config["configurable"] if config else {}
        for each in (config, before):
            if each is not None:
                check_checkpoint("configurable", each["configurable"])
        namespace, checkpoint_id = wanted.get("checkpoint_ns"), wanted.get("checkpoint_id")
        last = get_checkpoint_id(before) if before else None
        size = _PAGE if limit is None else min(limit, _PAGE)
        if namespace is None or checkpoint_id:
            for page in _in_pages(await self._names(thread_id, namespace, checkpoint_id, last), size):
                yield page
            return
        while page := await self._store.names(thread_id, namespace, before=last, limit=size):
            yield page
            last = Place.of(page[-1]).checkpoint_id

    async def _names(
        self, thread_id: str, namespace: str | None, checkpoint_id: str | None, before: str | None
    ) -> list[bytes]:
        """The names of one checkpoint, or of those of all namespaces."""
        places = [Place.of(name) for name in await self._store.all_names(thread_id)]
        chosen = [
            place
            for place in places
            if (namespace is None or place.namespace == namespace)
            and (not checkpoint_id or place.checkpoint_id == checkpoint_id)
            and (not before or place.checkpoint_id < before)
        ]
        chosen.sort(key=lambda place: place.checkpoint_id, reverse=True)
        return [place.name for place in chosen]

    async def _matching(
        self, thread_id: str, names: Sequence[bytes], wanted: Mapping[str, Any] | None
    ) -> Sequence[bytes]:
        """Those whose metadata has what is wanted."""
        if not wanted:
            return names
        rows = await self._store.rows(thread_id, names)
        metadata = {name: cast("dict[str, Any]", Row(row).metadata(self.serde)) for name, row in rows.items()}
        return [name for name, data in metadata.items() if all(data.get(key) == value for key, value in wanted.items())]

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Keep a checkpoint, and the values of the channels that are new with it.

        Raises:
            AttemptFenced: it comes from an attempt that does not hold its run any more.
        """
        parent = Place.of_config(config)
        place = parent._replace(checkpoint_id=check_id("checkpoint.id", checkpoint["id"]))
        writer = Fence.here()
        about = cast("dict[str, Any]", get_serializable_checkpoint_metadata(config, metadata))
        row = dump_row(
            self.serde,
            checkpoint,
            about,
            parent=parent.checkpoint_id,
            run_id=str(about.get("run_id") or (writer.run_id if writer else "")),
        )
        values, cuts = self._values(place, checkpoint["channel_values"], new_versions)
        old = {
            place.value_name(channel, version): SHOULD_BE_THERE
            for channel, version in checkpoint["channel_versions"].items()
            if channel not in new_versions and not is_small(checkpoint["channel_values"].get(channel))
        }

        async def put(values: Mapping[bytes, bytes], cuts: Sequence[Cut]) -> None:
            thread_id, fence = _thread_id(config), self._fence()
            await self._store.put(thread_id, place, row, values=values, pieces=Sending(cuts), fence=fence)

        try:
            await put({**old, **values}, cuts)
        except ValuesMissing:
            # Redis has come back with less than it had acknowledged, or somebody has deleted the thread.
            await put(*self._values(place, checkpoint["channel_values"], checkpoint["channel_versions"]))
        return place.config(config["configurable"]["thread_id"])

    def _values(
        self, place: Place, values: Mapping[str, Any], versions: ChannelVersions
    ) -> tuple[dict[bytes, bytes], list[Cut]]:
        """The new values by name, and the pieces that the long ones consist of."""
        dumped: dict[bytes, bytes] = {}
        cuts: list[Cut] = []
        # An encrypted entry has other bytes each time.
        can_cut = isinstance(self.serde, JsonPlusSerializer)
        for channel, version in versions.items():
            if channel not in values or is_small(values[channel]):
                continue
            pieces = cut(self.serde, values[channel]) if can_cut else None
            if pieces is not None:
                cuts.append(pieces)
            name = place.value_name(channel, version)
            dumped[name] = dump_cut(pieces) if pieces is not None else dump_value(self.serde, values[channel])
        return dumped, cuts

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Keep what a task has written; what it had written before stays, but for errors, interrupts and answers.

        Raises:
            AttemptFenced: it comes from an attempt that does not hold its run any more.
        """
        place = Place.of_config(config)
        check_id("configurable.checkpoint_id", place.checkpoint_id)
        rows: list[tuple[Literal["set", "add"], bytes, bytes]] = []
        writer = Fence.here()
        for position, (channel, value) in enumerate(writes):
            index = write_index(channel, position)
            row = dump_write(self.serde, channel, value, task_path, writer.run_id if writer else "")
            rows.append(("add" if index >= 0 else "set", place.write_name(task_id, index), row))
        await self._store.put_writes(_thread_id(config), rows, self._fence())

    @property
    def is_fenced(self) -> bool:
        """Whether Redis itself refuses what an attempt writes that does not hold its run."""
        return self._fenced

    @property
    def is_patient(self) -> bool:
        """Whether a call is made again while Redis is away."""
        return self._is_patient

    def _fence(self) -> Fence | None:
        return Fence.here() if self._fenced else None

    async def adelete_thread(self, thread_id: str) -> None:
        """Remove a thread."""
        await self._store.delete(str(thread_id))

    async def asize_of_thread(self, thread_id: str) -> int:
        """Return how many bytes a thread's checkpoints take in Redis; 0 where there are none."""
        return await self._store.size(str(thread_id))

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy a thread's checkpoints and writes to another thread, beside what that one has."""
        await self._store.copy(str(source_thread_id), str(target_thread_id))

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Remove the checkpoints that these runs have written, in all threads.

        A run is known by `run_id` in the metadata or, of runs that a worker executed, by its own id.
        """
        wanted = frozenset(run_ids)
        if not wanted:
            return
        for thread_id in await self._store.threads():
            await self.aforget_runs(thread_id, wanted)

    async def aforget_runs(self, thread_id: str, run_ids: Collection[str]) -> None:
        """Remove what these runs have written in one thread: checkpoints, and what they did at those of others."""
        writes: list[bytes] = []
        for page in _in_pages(await self._store.all_write_names(thread_id), _PAGE):
            rows = await self._store.rows(thread_id, page)
            writes += [name for name, row in rows.items() if run_of_write(row) in run_ids]
        if writes:
            await self._store.remove_writes(thread_id, writes)
        names: list[bytes] = []
        for page in _in_pages(await self._store.all_names(thread_id), _PAGE):
            rows = await self._store.rows(thread_id, page)
            names += [name for name, row in rows.items() if Row(row).run_id in run_ids]
        if names:
            await self._store.drop(thread_id, names)

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Remove what is not needed to go on with these threads.

        Args:
            thread_ids: the threads.
            strategy: `keep_latest` keeps the newest checkpoint of each namespace, but of subgraphs whose calls are
                over, and what `DeltaChannel`s are made from; `delete` keeps nothing.

        Raises:
            InvalidRequest: the strategy is neither of the two.
        """
        if strategy not in ("keep_latest", "delete"):
            raise InvalidRequest("strategy", f"{strategy!r} must be 'keep_latest' or 'delete'")
        for thread_id in map(str, thread_ids):
            if strategy == "delete":
                await self._store.delete(thread_id)
            elif names := await self._store.all_names(thread_id):
                kept = await self._needed(thread_id, names)
                if dropped := [name for name in names if name not in kept]:
                    await self._store.drop(thread_id, dropped)

    async def _needed(self, thread_id: str, names: Sequence[bytes]) -> set[bytes]:
        """The newest checkpoint of each namespace, and what its delta channels are made from.

        The namespace of a subgraph's call goes with the checkpoint that the call began from. It has a task's id behind
        a colon; that of a subgraph which remembers its calls has none, and stays.
        """
        known, needed = set(names), set[bytes]()
        newest = {Place.of(name).namespace: name for name in names}
        # The root's come first, as its namespace is empty.
        for page in _in_pages(sorted(newest.values()), _PAGE):
            for name, row in (await self._store.rows(thread_id, page)).items():
                place, metadata = Place.of(name), Row(row).metadata(self.serde)
                root = Place("", metadata.get("parents", {}).get("", "")).name
                if ":" in place.namespace and root in known and root not in needed:
                    continue
                needed |= {name} | await self._sources(place.config(thread_id), metadata)
        return needed

    async def _sources(self, config: RunnableConfig, metadata: CheckpointMetadata) -> set[bytes]:
        """The checkpoints that the delta channels of this one are made from: back to the last whole value of each."""
        missing = set(metadata.get("counters_since_delta_snapshot", ()))
        sources: set[bytes] = set()
        at: RunnableConfig | None = config
        while missing and at is not None and (found := await self.aget_tuple(at)) is not None:
            sources.add(Place(at["configurable"]["checkpoint_ns"], at["configurable"]["checkpoint_id"]).name)
            missing -= found.checkpoint["channel_values"].keys()
            at = found.parent_config
        return sources

    def get_next_version(self, current: str | None, channel: None) -> str:  # noqa: ARG002 - LangGraph's signature
        """A version that is higher than the current one, and than no other that follows the same one is equal to."""
        count = 0 if current is None else int(str(current).split(".")[0])
        return f"{count + 1:010}.{secrets.token_hex(6)}"

    # --- the methods without an `a`, for other threads -------------------------------------------------------------

    def _wait(self, call: Callable[[], Coroutine[Any, Any, _T]], name: str) -> _T:
        """Execute a coroutine in the saver's own loop, from another thread."""
        try:
            here: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        if here is self._loop:
            raise asyncio.InvalidStateError(
                f"RedisSaver.{name} was called in its own event loop, which it would block for ever: "
                f"use `await saver.a{name}(...)`, and of a graph `ainvoke` or `astream`"
            )
        return asyncio.run_coroutine_threadsafe(call(), self._loop).result()

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """`aget_tuple`, from another thread."""
        return self._wait(lambda: self.aget_tuple(config), "get_tuple")

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """`alist`, from another thread."""
        found = self.alist(config, filter=filter, before=before, limit=limit)
        while (one := self._wait(lambda: _next(found), "list")) is not None:
            yield one

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """`aput`, from another thread."""
        return self._wait(lambda: self.aput(config, checkpoint, metadata, new_versions), "put")

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """`aput_writes`, from another thread."""
        self._wait(lambda: self.aput_writes(config, writes, task_id, task_path), "put_writes")

    def delete_thread(self, thread_id: str) -> None:
        """`adelete_thread`, from another thread."""
        self._wait(lambda: self.adelete_thread(thread_id), "delete_thread")

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """`acopy_thread`, from another thread."""
        self._wait(lambda: self.acopy_thread(source_thread_id, target_thread_id), "copy_thread")

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """`adelete_for_runs`, from another thread."""
        self._wait(lambda: self.adelete_for_runs(run_ids), "delete_for_runs")

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """`aprune`, from another thread."""
        self._wait(lambda: self.aprune(thread_ids, strategy=strategy), "prune")

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """`aget_delta_channel_history`, from another thread."""
        return self._wait(
            lambda: self.aget_delta_channel_history(config=config, channels=channels), "get_delta_channel_history"
        )


async def _next(found: AsyncIterator[CheckpointTuple]) -> CheckpointTuple | None:
    return await anext(found, None)


def _thread_id(config: RunnableConfig) -> str:
    return check_thread_id(str(config["configurable"]["thread_id"]))


def _in_pages(names: Sequence[bytes], size: int) -> Iterator[Sequence[bytes]]:
    for at in range(0, len(names), max(size, 1)):
        yield names[at : at + size]
