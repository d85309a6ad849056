"""A run's checkpointer: whatever it saves has been published before, and only the attempt that holds the run saves.

A task's result that has been saved is the end of that task: no later attempt runs it again, so what it has emitted must
be in the stream by then. So each write waits until the events before it are in Redis. LangGraph calls `aput_writes` and
`aput` without waiting for them; what is noted in the very call, before the first `await`, belongs to that moment.
"""

from __future__ import annotations

import asyncio
import copy
from collections import defaultdict
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AbstractAsyncContextManager, aclosing
from functools import partial
from typing import Any, TypeAlias, TypeVar, cast
from uuid import uuid4

from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
    copy_checkpoint,
)
from langgraph.checkpoint.base.id import uuid6

from runstream.errors import AttemptFenced, RunstreamError
from runstream.faults import is_passing, patiently
from runstream.scripts import Scripts
from runstream_worker.infrastructure import Unavailable, is_infrastructure
from runstream_worker.outbox import Publisher
from runstream_worker.patient_saver import PatientSaver
from runstream_worker.redis_saver import EventsLost, Fence, RedisSaver
from runstream_worker.settlement import CONTROL_CHANNELS

NULL_TASK = "00000000-0000-0000-0000-000000000000"
"""LangGraph's id for what a `Command` writes."""
_HIDDEN_TASK = "__start__"
_RESUMING = "__pregel_resuming"
"""LangGraph's key for whether a subgraph is to go on."""
_QUIET_TURNS = 50
_T = TypeVar("_T")
Saver: TypeAlias = BaseCheckpointSaver[Any]


class Taken:
    """What an attempt has taken from its graph so far, and put into its publisher."""

    def __init__(self) -> None:
        self._results: set[str] = set()
        self._chunks = 0
        self._is_busy = False
        self._freed = asyncio.Event()
        self._over = False

    def begin(self) -> None:
        """A chunk has come."""
        self._chunks += 1
        self._is_busy = True

    def end(self, result_of: str | None = None) -> None:
        """It has been put into the publisher; it was the result of this task."""
        self._is_busy = False
        if result_of is not None:
            self._results.add(result_of)
        self._freed.set()

    def close(self) -> None:
        """Nothing more is taken."""
        self._over, self._is_busy = True, False
        self._freed.set()

    async def result_of(self, task_id: str) -> None:
        """Wait until a task's result has been taken, which is the last thing that it emits.

        Some tasks have none that can be seen (LangGraph hides them, or had their result in its cache). For those it is
        waited until the graph has emitted nothing for many turns of the event loop, of which a chunk takes a few.

        Raises:
            NotPublished: nothing more is taken.
        """
        quiet, chunks = 0, self._chunks
        while task_id not in self._results and quiet < _QUIET_TURNS:
            if self._over:
                raise NotPublished
            if self._is_busy:
                self._freed.clear()
                await self._freed.wait()
            await asyncio.sleep(0)
            quiet, chunks = (quiet + 1 if chunks == self._chunks else 0), self._chunks
        self._results.discard(task_id)


class NotPublished(RunstreamError):
    """The attempt is over, and what was to be saved had not been published."""


def is_beside_runs(saver: BaseCheckpointSaver[Any] | None) -> bool:
    """Whether checkpoints are kept in the runs' own Redis, which fences them, and loses either only with the other."""
    return isinstance(saver, RedisSaver) and saver.is_fenced


class RunSaver(BaseCheckpointSaver[Any]):
    """Another checkpointer, for the time of one attempt.

    Args:
        saver: what keeps the checkpoints.
        thread_id: the run's thread.
        publisher: the attempt's events.
        taken: what the attempt has taken from its graph.
        scripts: to ask whether the attempt still holds its run, where the checkpointer does not.
    """

    def __init__(
        self,
        saver: BaseCheckpointSaver[Any],
        thread_id: str,
        publisher: Publisher,
        taken: Taken,
        scripts: Scripts,
    ) -> None:
        super().__init__(serde=saver.serde)
        self._saver = saver
        self._thread_id = thread_id
        self._hold = publisher.hold
        self._publisher = publisher
        self._taken = taken
        self._scripts = scripts
        self._loop = asyncio.get_running_loop()
        self._open: defaultdict[str, set[asyncio.Future[None]]] = defaultdict(set)
        self._unsaved: dict[str, Exception] = {}
        self._is_fenced = is_beside_runs(saver)
        self.forget_command = False
        """Leave out of the first read what an earlier attempt's `Command` has written: it is given again."""

    @property
    def config_specs(self) -> list[Any]:
        """As of the other checkpointer."""
        return self._saver.config_specs

    def get_next_version(self, current: Any, channel: None) -> Any:
        """As of the other checkpointer."""
        return self._saver.get_next_version(current, channel)

    def with_allowlist(self, extra_allowlist: Collection[tuple[str, ...]]) -> RunSaver:
        """The same, with the classes of a graph's state among those that may be made of what is saved."""
        saver = self._saver.with_allowlist(extra_allowlist)
        allowing = copy.copy(self)
        vars(allowing).update(_saver=saver, serde=saver.serde)
        return allowing

    # --- reading ---------------------------------------------------------------------------------------------------

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint that the config names, else the newest one."""
        found = await self._call(lambda saver: saver.aget_tuple(config))
        _begin_anew(config, found)
        if found is not None and self._is_of_run(config):
            self._publisher.settlement.read(config, found)
        if found is not None and self.forget_command and not config["configurable"].get("checkpoint_ns"):
            self.forget_command = False
            kept = [write for write in found.pending_writes or () if write[0] != NULL_TASK]
            return found._replace(pending_writes=kept)
        return found

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Checkpoints, the newest first."""
        async with listed(self._saver, config, filter=filter, before=before, limit=limit) as found:
            while (one := await _told(anext(found, None))) is not None:
                yield one

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """What delta channels are made from."""
        return await self._call(lambda saver: saver.aget_delta_channel_history(config=config, channels=channels))

    # --- writing ---------------------------------------------------------------------------------------------------

    def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> Coroutine[Any, Any, RunnableConfig]:
        """Keep a checkpoint, once the events before it have been published, and its tasks' results kept.

        Raises:
            AttemptFenced: the attempt does not hold its run any more.
            Unavailable: the database is away.
            NotPublished: the attempt is over, and something that this checkpoint comes of had not been published.
            Exception: what a result that this checkpoint comes of could not be saved for.
        """
        namespace = config["configurable"].get("checkpoint_ns", "")
        earlier, seq = set(self._open[namespace]), self._publisher.next_seq

        async def put() -> RunnableConfig:
            if earlier:
                await asyncio.wait(earlier)
            if namespace in self._unsaved:
                raise self._unsaved[namespace]
            saved = await self._write(seq, lambda saver: saver.aput(config, checkpoint, metadata, new_versions))
            if self._is_of_run(config):
                self._publisher.settlement.saved_checkpoint(config, checkpoint["id"], metadata.get("step"))
                self._publisher.publish_settled()
            return saved

        return put()

    def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> Coroutine[Any, Any, None]:
        """Keep what a task has written, once everything that it has emitted has been published.

        Raises:
            AttemptFenced: the attempt does not hold its run any more.
            Unavailable: the database is away.
            NotPublished: the attempt is over, and not everything of that had been published.
        """
        _give_ids(value for _, value in writes)
        namespace = config["configurable"].get("checkpoint_ns", "")
        opened = self._open[namespace]
        ticket: asyncio.Future[None] = self._loop.create_future()
        opened.add(ticket)
        is_result = task_id != NULL_TASK and any(channel not in CONTROL_CHANNELS for channel, _ in writes)

        async def put() -> None:
            try:
                if is_result and _HIDDEN_TASK not in task_path:
                    await self._taken.result_of(task_id)
                seq = self._publisher.next_seq
                await self._write(seq, lambda saver: saver.aput_writes(config, writes, task_id, task_path))
                if self._is_of_run(config):
                    self._publisher.settlement.saved_writes(config, task_id, [channel for channel, _ in writes])
                    self._publisher.publish_settled()
            except BaseException as error:
                # Nor is what comes of it, for the same reason: a checkpoint has the results of all its tasks in it.
                self._unsaved.setdefault(namespace, error if isinstance(error, Exception) else NotPublished())
                raise
            finally:
                opened.discard(ticket)
                ticket.set_result(None)

        return put()

    async def _write(self, seq: int, write: Callable[[Saver], Awaitable[_T]]) -> _T:
        """Write, once Redis has the events before this sequence number; those that it has lost are published again."""
        while True:
            last_seq = await self._publisher.published(seq)
            ask = None if self._is_fenced else partial(self._ask, last_seq)
            try:
                with Fence.of(self._hold, last_seq).around():
                    return await self._call(write, before=ask)
            except EventsLost as lost:
                await self._publisher.publish_again(lost.last_seq)
            except AttemptFenced:
                # Redis may only have forgotten the claim.
                if not await self._publisher.is_held():
                    raise

    def _is_of_run(self, config: RunnableConfig) -> bool:
        """Whether a config is of the run's own thread: a node may use the checkpointer for another one."""
        return config["configurable"].get("thread_id") == self._thread_id

    async def _ask(self, last_seq: int) -> None:
        """Do what the fence of checkpoints in the runs' own Redis does, a moment before each try of a write."""
        found = await patiently(lambda: self._scripts.last_seq(self._hold), None, outlasts=is_passing)
        if found is None:
            raise AttemptFenced(self._hold.run_id, self._hold.attempt)
        if found < last_seq:
            raise EventsLost(found)

    async def _call(
        self, call: Callable[[Saver], Awaitable[_T]], *, before: Callable[[], Awaitable[None]] | None = None
    ) -> _T:
        if isinstance(self._saver, PatientSaver):
            return await self._saver.attempt(call, before=before)
        if before is not None:
            await before()
        return await _told(call(self._saver))

    async def adelete_thread(self, thread_id: str) -> None:
        """As of the other checkpointer."""
        await self._call(lambda saver: saver.adelete_thread(thread_id))

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """As of the other checkpointer."""
        await self._call(lambda saver: saver.adelete_for_runs(run_ids))

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """As of the other checkpointer."""
        await self._call(lambda saver: saver.acopy_thread(source_thread_id, target_thread_id))

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """As of the other checkpointer."""
        await self._call(lambda saver: saver.aprune(thread_ids, strategy=strategy))

    # --- the methods without an `a`: graphs that nodes run on threads of their own use them -----------------------

    def _elsewhere(self) -> bool:
        """Whether this is another thread than that of the attempt's loop, which may wait for the loop."""
        try:
            return asyncio.get_running_loop() is not self._loop
        except RuntimeError:
            return True

    def _wait(self, call: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        return asyncio.run_coroutine_threadsafe(_later(call), self._loop).result()

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """`aget_tuple`, from another thread."""
        if self._elsewhere():
            return self._wait(lambda: self.aget_tuple(config))
        found = self._saver.get_tuple(config)
        _begin_anew(config, found)
        return found

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """`alist`, as the other checkpointer has it."""
        return self._saver.list(config, filter=filter, before=before, limit=limit)

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """`aput`, from another thread."""
        if not self._elsewhere():
            return self._saver.put(config, checkpoint, metadata, new_versions)
        return self._wait(lambda: self.aput(config, checkpoint, metadata, new_versions))

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """`aput_writes`, from another thread."""
        if not self._elsewhere():
            self._saver.put_writes(config, writes, task_id, task_path)
        else:
            self._wait(lambda: self.aput_writes(config, writes, task_id, task_path))

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """`aget_delta_channel_history`, as the other checkpointer has it."""
        return self._saver.get_delta_channel_history(config=config, channels=channels)


def _begin_anew(config: RunnableConfig, found: CheckpointTuple | None) -> None:
    """Have a subgraph that remembers its turns (`checkpointer=True`) begin the next one, where that is what comes.

    A graph that goes on (`input=None`) tells all subgraphs of its first step to do the same. One that had not begun its
    turn by then would take the last one, which is over, for this (langgraph 1.2), and do nothing. It had begun if its
    checkpoint has the same parent; and one that asks has not ended its turn.
    """
    told, namespace = config["configurable"], config["configurable"].get("checkpoint_ns", "")
    parent, _, own = namespace.rpartition("|")
    if found is None or not told.get(_RESUMING) or not own or ":" in own:
        return
    has_begun = found.metadata.get("parents", {}).get(parent) == told.get("checkpoint_map", {}).get(parent)
    asks = any(channel == "__interrupt__" for _, channel, _ in found.pending_writes or ())
    if not has_begun and not asks:
        told[_RESUMING] = False


def _give_ids(values: Iterable[Any]) -> None:
    """Give messages that have no id the one that they would get from LangGraph's reducer, a moment later.

    So it is the same in the update that is published, in the write that is saved, and in the state that comes of it.
    """
    for value in values:
        for message in value if isinstance(value, list) else (value,):
            if isinstance(message, BaseMessage) and message.id is None:
                message.id = str(uuid4())


async def _told(call: Awaitable[_T]) -> _T:
    """Make a call of a checkpointer; a database that is away or refuses raises `Unavailable`."""
    try:
        return await call
    except Unavailable:
        raise
    except Exception as error:
        if is_infrastructure(error):
            raise Unavailable.because_of("checkpointer", error) from error
        raise


async def _later(call: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    """Make the call in the loop, where what it notes belongs."""
    return await call()


async def forget_runs(saver: BaseCheckpointSaver[Any], thread_id: str, run_ids: Collection[str]) -> None:
    """Take a thread back to before what these runs have saved.

    Where the checkpointer cannot remove a run's checkpoints (LangGraph's own for SQLite and PostgreSQL cannot), the
    newest one of another run is put on top of them again.
    """
    redis = saver.saver if isinstance(saver, PatientSaver) else saver
    if isinstance(redis, RedisSaver):
        forget = partial(RedisSaver.aforget_runs, thread_id=thread_id, run_ids=run_ids)
        await (saver.attempt(cast("Any", forget)) if isinstance(saver, PatientSaver) else forget(redis))
        return
    config: RunnableConfig = {"configurable": {"thread_id": thread_id, "checkpoint_ns": ""}}
    before = None
    async with listed(saver, config) as found:
        async for one in found:
            if one.metadata.get("run_id") not in run_ids:
                before = one
                break
    if before is not None:
        # Also where they have no checkpoint of their own: what they did may stand at this one.
        await _put_on_top(saver, before)
    else:
        await saver.adelete_thread(thread_id)


def listed(
    saver: BaseCheckpointSaver[Any], config: RunnableConfig | None, **options: Any
) -> AbstractAsyncContextManager[AsyncGenerator[CheckpointTuple, None]]:
    """A checkpointer's checkpoints, the newest first, for as long as the block lasts.

    To be left behind before anything is written: LangGraph's own for SQLite holds its lock from the first to the last.
    """
    return aclosing(cast("AsyncGenerator[CheckpointTuple, None]", saver.alist(config, **options)))


async def _put_on_top(saver: BaseCheckpointSaver[Any], found: CheckpointTuple) -> None:
    checkpoint = copy_checkpoint(found.checkpoint)
    checkpoint["id"] = str(uuid6(clock_seq=-2))
    metadata: CheckpointMetadata = {**found.metadata, "source": "fork"}
    await saver.aput(found.config, checkpoint, metadata, checkpoint["channel_versions"])
