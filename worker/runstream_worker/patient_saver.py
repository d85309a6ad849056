"""Checkpointers that outlast a broken connection: calls that may be made again are, for a bounded time.

All calls of a checkpointer may. Reads change nothing; `aput` and `aput_writes` write rows whose keys are the ids of the
checkpoint and the task, so that a second write of the same row changes nothing, also where only the reply to the first
was lost; a thread that was deleted or pruned can be deleted or pruned again.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import suppress
from typing import Any, TypeVar, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
)
from langgraph.checkpoint.memory import InMemorySaver

from runstream_worker.infrastructure import Unavailable, is_infrastructure, is_transient
from runstream_worker.redis_saver import RedisSaver

DEFAULT_PATIENCE = 30.0
_FIRST_DELAY = 0.02
_LONGEST_DELAY = 1.0
_SHORTEST_TRY = 1.0
"""A database that has come back gets this long for a try that begins when the patience is nearly over, in seconds."""
_T = TypeVar("_T")
_Key = tuple[str, str, str]


class SaverSource:
    """The checkpointer that calls go to: always the same one, unless it can be opened anew.

    A checkpointer with a single connection of its own never recovers when that is lost. One that a function of the
    project opened is opened again by it.

    Args:
        saver: the checkpointer as it was opened first.
        reopen: opens another one and closes the last; None where nobody can.
    """

    def __init__(
        self, saver: BaseCheckpointSaver[Any], reopen: Callable[[], Awaitable[BaseCheckpointSaver[Any]]] | None = None
    ) -> None:
        self.saver = saver
        self._reopen = reopen
        self._reopening = asyncio.Lock()

    @property
    def is_broken(self) -> bool:
        """Whether the checkpointer has a single connection, and that is closed."""
        return bool(getattr(getattr(self.saver, "conn", None), "closed", False))

    async def mend(self) -> bool:
        """Open the checkpointer anew if its connection is closed; False if nobody can."""
        if not self.is_broken:
            return True
        if self._reopen is None:
            return False
        async with self._reopening:
            if self.is_broken:
                self.saver = await self._reopen()
        return True


class PatientSaver(BaseCheckpointSaver[Any]):
    """Another checkpointer, whose calls are made again while its database is away.

    Args:
        source: what keeps the checkpoints.
        patience: for how long a call is tried, in seconds.
        allowlist: classes that may be made of what is saved, beside those that the checkpointer allows.

    Every call raises `Unavailable` where the database was away for longer, or refuses for good.
    """

    def __init__(
        self, source: SaverSource, patience: float, allowlist: Sequence[Collection[tuple[str, ...]]] = ()
    ) -> None:
        self._source = source
        self._patience = patience
        self._allowlist = tuple(allowlist)
        self._allowing: tuple[BaseCheckpointSaver[Any], BaseCheckpointSaver[Any]] | None = None
        super().__init__(serde=self.saver.serde)

    @property
    def saver(self) -> BaseCheckpointSaver[Any]:
        """The checkpointer behind this one, which makes each call once."""
        opened = self._source.saver
        if not self._allowlist:
            return opened
        if self._allowing is None or self._allowing[0] is not opened:
            allowing = opened
            for extra in self._allowlist:
                allowing = allowing.with_allowlist(extra)
            self._allowing = (opened, allowing)
        return self._allowing[1]

    async def attempt(
        self,
        call: Callable[[BaseCheckpointSaver[Any]], Awaitable[_T]],
        *,
        before: Callable[[], Awaitable[None]] | None = None,
    ) -> _T:
        """Make a call of the checkpointer, and make it again while its database is away.

        Args:
            call: is given the checkpointer; it may be made several times.
            before: is awaited before each time, and takes none of the patience; what it raises ends the attempt.

        Raises:
            Unavailable: the database was away for longer than the patience, or refuses for good.
        """
        loop = asyncio.get_running_loop()
        delay, until, last = _FIRST_DELAY, math.inf, None
        while True:
            if before is not None:
                await before()
            until = min(until, loop.time() + self._patience)
            try:
                async with asyncio.timeout(max(until - loop.time(), min(self._patience, _SHORTEST_TRY))):
                    return await self._once(call)
            except Exception as error:
                last = error if last is None or not isinstance(error, TimeoutError) else last
                if not is_transient(error) or loop.time() + delay > until:
                    raise self._told(last) from error
            await asyncio.sleep(delay)
            delay = min(delay * 2, _LONGEST_DELAY)

    async def _once(self, call: Callable[[BaseCheckpointSaver[Any]], Awaitable[_T]]) -> _T:
        if not await self._source.mend():
            raise Unavailable("checkpointer: its only connection is closed, and nothing can open another")
        return await call(self.saver)

    def _told(self, error: Exception) -> Exception:
        """The error that a caller gets; the driver's own stays for what is not about the database being away."""
        if isinstance(error, Unavailable) or not is_infrastructure(error):
            return error
        if isinstance(error, TimeoutError) and not str(error):
            return Unavailable(f"checkpointer: no answer within {self._patience:g} s", "TimeoutError")
        return Unavailable.because_of("checkpointer", error)

    @property
    def config_specs(self) -> list[Any]:
        """As of the other checkpointer."""
        return self.saver.config_specs

    def get_next_version(self, current: Any, channel: None) -> Any:
        """As of the other checkpointer."""
        return self.saver.get_next_version(current, channel)

    def with_allowlist(self, extra_allowlist: Collection[tuple[str, ...]]) -> PatientSaver:
        """The same, with the classes of a graph's state among those that may be made of what is saved."""
        return PatientSaver(self._source, self._patience, (*self._allowlist, extra_allowlist))

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint that the config names, else the newest one."""
        return await self.attempt(lambda saver: saver.aget_tuple(config))

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Checkpoints, the newest first; each once, also where the list has to be begun again."""
        listing = _Listing(lambda saver: saver.alist(config, filter=filter, before=before, limit=limit))
        try:
            while (one := await self.attempt(listing.next)) is not None:
                yield one
        finally:
            await listing.aclose()

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Keep a checkpoint."""
        return await self.attempt(lambda saver: saver.aput(config, checkpoint, metadata, new_versions))

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Keep what a task has written."""
        await self.attempt(lambda saver: saver.aput_writes(config, writes, task_id, task_path))

    async def adelete_thread(self, thread_id: str) -> None:
        """Remove a thread."""
        await self.attempt(lambda saver: saver.adelete_thread(thread_id))

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Remove what these runs have written."""
        await self.attempt(lambda saver: saver.adelete_for_runs(run_ids))

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy a thread's checkpoints to another thread."""
        await self.attempt(lambda saver: saver.acopy_thread(source_thread_id, target_thread_id))

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Remove what is not needed to go on with these threads."""
        await self.attempt(lambda saver: saver.aprune(thread_ids, strategy=strategy))

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """What delta channels are made from."""
        return await self.attempt(lambda saver: saver.aget_delta_channel_history(config=config, channels=channels))

    # --- the methods without an `a`, for other threads: made once --------------------------------------------------

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """As of the other checkpointer."""
        return self.saver.get_tuple(config)

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """As of the other checkpointer."""
        return self.saver.list(config, filter=filter, before=before, limit=limit)

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """As of the other checkpointer."""
        return self.saver.put(config, checkpoint, metadata, new_versions)

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """As of the other checkpointer."""
        self.saver.put_writes(config, writes, task_id, task_path)

    def delete_thread(self, thread_id: str) -> None:
        """As of the other checkpointer."""
        self.saver.delete_thread(thread_id)

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """As of the other checkpointer."""
        return self.saver.get_delta_channel_history(config=config, channels=channels)


class _Listing:
    """A list of checkpoints that is begun again after a failure, without those that were there before."""

    def __init__(self, begin: Callable[[BaseCheckpointSaver[Any]], AsyncIterator[CheckpointTuple]]) -> None:
        self._begin = begin
        self._found: AsyncIterator[CheckpointTuple] | None = None
        self._seen: set[_Key] = set()

    async def next(self, saver: BaseCheckpointSaver[Any]) -> CheckpointTuple | None:
        """The next one; None at the end."""
        if self._found is None:
            self._found = self._begin(saver)
        try:
            while (one := await anext(self._found, None)) is not None and _key(one) in self._seen:
                pass
        except BaseException:
            await self.aclose()
            raise
        if one is not None:
            self._seen.add(_key(one))
        return one

    async def aclose(self) -> None:
        """Leave the list. LangGraph's own for SQLite holds its lock until then."""
        found, self._found = self._found, None
        if found is not None:
            with suppress(RuntimeError):
                await cast("Any", found).aclose()


def _key(found: CheckpointTuple) -> _Key:
    told = found.config["configurable"]
    return str(told["thread_id"]), told.get("checkpoint_ns", ""), told["checkpoint_id"]


def patient(opened: BaseCheckpointSaver[Any] | SaverSource, patience: float) -> BaseCheckpointSaver[Any]:
    """The checkpointer with patience; unchanged where it has its own, or no database that could be away."""
    saver = opened.saver if isinstance(opened, SaverSource) else opened
    if isinstance(saver, PatientSaver) or (isinstance(saver, RedisSaver) and saver.is_patient):
        return saver
    if type(saver) is InMemorySaver:
        return saver
    return PatientSaver(opened if isinstance(opened, SaverSource) else SaverSource(opened), patience)
