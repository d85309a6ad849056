"""The client: enqueue runs, read their streams, get their results, stop them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, Unpack, cast, overload

from runstream.connection import connect
from runstream.deliveries import Deliveries
from runstream.documents import Documents
from runstream.errors import (
    InvalidRequest,
    RunActive,
    RunErrored,
    RunExists,
    RunFailedError,
    RunLost,
    RunNotFound,
    RunStopped,
    RunstreamError,
    RunTimedOut,
    ThreadBusy,
)
from runstream.eviction import Eviction, read_eviction
from runstream.faults import patiently
from runstream.fold import Fold
from runstream.keys import Keys
from runstream.model import EventId, RunInfo, Status, StopAction, StopResult, WorkerInfo, check_known_run_id, from_ms
from runstream.quotas import Quotas
from runstream.records import Records
from runstream.request import PreparedRun, RunOptions, RunRequest, check_reason, check_thread_id, prepare
from runstream.requeue import prepare_again, request_of
from runstream.scripts import Enqueue, Scripts
from runstream.settings import ClientSettings, check_number, namespace_from_environment, redis_url_from_environment
from runstream.settled import Settling
from runstream.spoken import Retraction, SpokenText, Text
from runstream.stream import EventStream
from runstream.tail import Tails
from runstream.usage import Usage
from runstream.voids import Voids
from runstream.waiting import Waiting, WaitingRuns

_T = TypeVar("_T")

_FAILURES: dict[Status, tuple[type[RunFailedError], str]] = {
    Status.ERROR: (RunErrored, "failed"),
    Status.STOPPED: (RunStopped, "was stopped"),
    Status.TIMEOUT: (RunTimedOut, "timed out"),
    Status.LOST: (RunLost, "was lost"),
}


@dataclass(frozen=True)
class Run:
    """An enqueued run.

    Attributes:
        run_id: its id, a UUID.
        thread_id: its thread; a run that was given none has one of its own, with the run's id.
        graph: the graph that it runs.
        is_new: False when the same request had been enqueued before, under this id or this idempotency key.
        created_at: when it was enqueued, in UTC, by Redis' clock.
    """

    run_id: str
    thread_id: str
    graph: str
    is_new: bool
    created_at: datetime


@dataclass(frozen=True)
class RunSpec:
    """One run for `Client.enqueue_many`: what `Client.enqueue` takes."""

    graph: str
    input: Any = None
    options: RunOptions = field(default_factory=RunOptions)


class Client:
    """Producer and consumer in one; an async context manager.

    One client serves a whole process: its calls share a few connections, and all its tails share one more.

    Args:
        url: of Redis; `RUNSTREAM_REDIS_URL`, else `redis://localhost:6379/0`, when left out.
        settings: see `ClientSettings`; the namespace is `RUNSTREAM_NAMESPACE`, else `runstream`, when left out.
    """

    def __init__(self, url: str | None = None, *, settings: ClientSettings | None = None) -> None:
        self._settings = settings or ClientSettings(namespace=namespace_from_environment())
        self._keys = Keys(self._settings.namespace)
        self._url = url or redis_url_from_environment()
        self._redis = connect(self._url, connections=self._settings.connections)
        self._scripts = Scripts(self._redis, self._keys)
        self._closed = False
        self._records = Records(self._redis, self._keys, self._call)
        self._waiting_runs = WaitingRuns(self._redis, self._keys, self._call, self._records)
        self._stopping: set[asyncio.Task[None]] = set()
        self._tails = Tails(
            self._redis,
            connect(self._url, connections=1),
            self._keys,
            self._scripts,
            pages_at_once=max(1, self._settings.connections // 2),
            buffer=self._settings.read_buffer,
            buffer_bytes=self._settings.read_buffer_bytes,
            reconnect_timeout=self._settings.reconnect_timeout,
            probe_interval=self._settings.probe_interval,
        )

    @classmethod
    def from_url(cls, url: str, *, settings: ClientSettings | None = None) -> Self:
        """A client of the Redis at this URL (`redis://`, `rediss://` or `unix://`)."""
        return cls(url, settings=settings)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections. Readers that still wait raise `RunstreamError`; runs are not touched."""
        while self._stopping:
            await asyncio.wait(self._stopping)
        self._closed = True
        await self._tails.aclose()
        await self._redis.aclose()

    async def ping(self) -> None:
        """Check that Redis can be reached.

        Raises:
            redis.exceptions.RedisError: it cannot.
        """
        await self._call(lambda: cast("Any", self._redis).ping())

    async def eviction(self) -> Eviction | None:
        """Return what Redis does when its memory is full; None where it does not say.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached.
        """
        return await self._call(lambda: read_eviction(self._redis))

    async def _call(self, call: Callable[[], Awaitable[_T]]) -> _T:
        if self._closed:
            # redis-py would quietly connect anew, and nobody would close that.
            raise RunstreamError("the client is closed")
        return await patiently(call, self._settings.call_timeout)

    # -- produce ------------------------------------------------------------------------------------------------------

    async def enqueue(self, graph: str, input: Any = None, **options: Unpack[RunOptions]) -> Run:  # noqa: A002 - as astream calls it
        """Enqueue a run, in one round trip. The options are told at `RunOptions`.

        Args:
            graph: the name under which workers have the graph.
            input: the graph's input as JSON, with LangChain messages where wanted; or a `Command`; or None, to go on
                from the thread's last checkpoint.

        Raises:
            InvalidRequest: something is not as it has to be; nothing was written.
            RunExists: the run id or idempotency key is taken by another request.
            ThreadBusy: a run is on the thread, and the strategy is `reject`; nothing was written.
        """
        return (await self.enqueue_many([RunSpec(graph, input, options)]))[0]

    async def enqueue_many(self, runs: Iterable[RunSpec]) -> list[Run]:
        """Enqueue runs, all in one round trip; the answers are in their order.

        Raises:
            InvalidRequest: one of them is not as it has to be; none was written.
            RunExists: a run id or idempotency key is taken by another request; the other runs were written.
            ThreadBusy: of one of them, the thread has a run and the strategy is `reject`; the other runs were written.
        """
        return await self.enqueue_prepared([self.prepare(run) for run in runs])

    def prepare(self, run: RunSpec) -> PreparedRun:
        """Check a run and do not enqueue it yet: for who has more to write than the run, and only if it is right.

        Raises:
            InvalidRequest: something is not as it has to be.
        """
        return prepare(run.graph, run.input, run.options, max_bytes=self._settings.max_request_bytes)

    async def enqueue_prepared(self, prepared: Sequence[PreparedRun]) -> list[Run]:
        """Enqueue what `prepare` has found right, all in one round trip.

        Raises:
            RunExists, ThreadBusy: as `enqueue_many`.
        """
        if not prepared:
            return []
        to_write = [self._to_write(run) for run in prepared]
        replies = await self._call(lambda: self._scripts.enqueue(to_write))
        enqueued = []
        for run, reply in zip(prepared, replies, strict=True):
            if reply.outcome == "taken":
                raise RunExists(reply.run_id, run.idempotency_key if reply.run_id != run.run_id else None)
            if reply.outcome == "busy":
                raise ThreadBusy(run.request.thread_id, reply.run_id)
            given_none = run.request.thread_id == run.run_id
            thread_id = reply.run_id if given_none else run.request.thread_id
            created_at = from_ms(reply.created_at)
            enqueued.append(Run(reply.run_id, thread_id, run.request.graph, reply.outcome == "new", created_at))
        return enqueued

    def _to_write(self, run: PreparedRun) -> Enqueue:
        request = run.request
        retention = run.retention if run.retention is not None else round(self._settings.retention * 1000)
        queued_ttl = run.queued_ttl if run.queued_ttl is not None else round(self._settings.queued_ttl * 1000)
        # arq's job: {"t": try, "f": function, "a": args, "k": kwargs, "et": enqueue time}; the script knows the time.
        job_before = f'{{"t": null, "f": "run", "a": [{json.dumps(run.run_id)}], "k": {{}}, "et": '
        return Enqueue(
            run_id=run.run_id,
            graph=request.graph,
            thread_id=request.thread_id,
            digest=run.digest,
            due=run.due,
            due_is_absolute=run.due_is_absolute,
            job_before=job_before,
            job_after="}",
            queued_ttl=queued_ttl,
            retention=retention,
            record={
                "graph": request.graph,
                "thread": request.thread_id,
                "modes": ",".join(request.stream_mode),
                "metadata": run.metadata_json,
                "request": run.request_json,
                "max_attempts": run.max_attempts,
            },
            idempotency_key=run.idempotency_key,
            strategy=run.strategy,
        )

    async def requeue(self, run_id: str) -> Run:
        """Enqueue a run again that was lost, failed, timed out or was stopped: the same request, on the same thread.

        The new run goes on from what the old one has saved; so the user's message, if it has been saved, is not there
        twice. It has the old one's metadata, with `requeued_from`, and waits for its turn on the thread. A second call
        gives the same run (`is_new` is False). A dead letter is none any more then.

        Raises:
            InvalidRequest: the run has not ended, or has come to its graph's end; nothing was written.
            RunNotFound: there is no such run, or it has expired.
            ProtocolError: its request cannot be read by this version.
        """
        run_id = check_known_run_id(run_id)
        (run,) = await self.enqueue_prepared([prepare_again(await self._records.request(run_id))])
        await self._records.bury(run_id)
        return run

    async def invoke(self, graph: str, input: Any = None, **options: Unpack[RunOptions]) -> Any:  # noqa: A002 - as ainvoke calls it
        """Enqueue a run and wait for its result: `ainvoke` on a worker. Raises what `enqueue` and `result` raise."""
        return await self.result((await self.enqueue(graph, input, **options)).run_id)

    @overload
    async def batch(self, graph: str, inputs: Sequence[Any], **options: Unpack[RunOptions]) -> list[Any]: ...
    @overload
    async def batch(
        self, graph: str, inputs: Sequence[Any], *, return_exceptions: bool, **options: Unpack[RunOptions]
    ) -> list[Any]: ...
    async def batch(
        self, graph: str, inputs: Sequence[Any], *, return_exceptions: bool = False, **options: Unpack[RunOptions]
    ) -> list[Any]:
        """Enqueue a run for each input, in one round trip, and gather their results: `abatch` on the workers.

        Args:
            graph: the graph that all of them run.
            inputs: one input for each run.
            return_exceptions: put a failed run's exception in its place, instead of raising the first.

        Raises:
            InvalidRequest: something is not as it has to be, or an id was given, which the runs cannot share.
        """
        for name in ("run_id", "idempotency_key"):
            if options.get(name) is not None:
                raise InvalidRequest(name, "the runs of a batch cannot share it; use enqueue_many, with one for each")
        runs = await self.enqueue_many([RunSpec(graph, one, options) for one in inputs])
        return await self.gather([run.run_id for run in runs], return_exceptions=return_exceptions)

    async def gather(self, run_ids: Iterable[str], *, return_exceptions: bool = False) -> list[Any]:
        """The results of many runs, in the order of their ids, over one connection.

        Args:
            run_ids: the runs.
            return_exceptions: put a failed run's exception in its place, instead of raising the first.
        """
        waits = (self.result(run_id) for run_id in run_ids)
        if return_exceptions:
            return await asyncio.gather(*waits, return_exceptions=True)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(wait) for wait in waits]
        except ExceptionGroup as failed:
            # The first is what the caller can catch by its class; the other waits have been cancelled for it.
            raise failed.exceptions[0] from None
        return [task.result() for task in tasks]

    async def stop(self, run_id: str, *, reason: str = "", action: StopAction = "interrupt") -> StopResult:
        """Ask that a run end. It does so at once.

        Args:
            run_id: the run.
            reason: is kept in its record, and told to its readers.
            action: `interrupt`: what the graph has saved stays saved; `rollback`: it is removed from the thread.

        Raises:
            InvalidRequest: the reason or the action is none.
            RunNotFound: there is no such run.
        """
        run_id = check_known_run_id(run_id)
        told = check_reason(reason)
        if action not in ("interrupt", "rollback"):
            raise InvalidRequest("action", f"{action!r} must be 'interrupt' or 'rollback'")
        reply = await self._call(lambda: self._scripts.stop(run_id, told, action))
        if reply.outcome == "missing":
            raise RunNotFound(run_id)
        status = {"stopped": Status.STOPPED, "stopping": Status.RUNNING}.get(reply.outcome)
        return StopResult(cast("Any", reply.outcome), status or Status(reply.detail))

    async def delete(self, run_id: str) -> None:
        """Forget a run that has ended, before its retention is over: its record, its result and its events.

        Readers that are not at the end raise `RunNotFound`, as where a run has expired. What the run has saved on its
        thread stays there. Its id and its idempotency key are free again.

        Raises:
            RunActive: it has not ended; nothing was removed.
            RunNotFound: there is no such run, or it has expired.
        """
        run_id = check_known_run_id(run_id)
        tries = 0

        async def forget() -> str:
            nonlocal tries
            tries += 1
            return await self._scripts.forget(run_id)

        outcome = await self._call(forget)
        if outcome == "active":
            raise RunActive(run_id)
        # Where the reply to the first try was lost, that may be what has removed it; it has gone, as was wished.
        if outcome == "missing" and tries == 1:
            raise RunNotFound(run_id)

    # -- consume ------------------------------------------------------------------------------------------------------

    def tail(
        self,
        run_id: str,
        *,
        after: str | None = None,
        live: bool = False,
        on_disconnect: Literal["continue", "stop"] = "continue",
        settled: bool = False,
    ) -> EventStream:
        """The run's events, from the start until its end, while it runs or after it has ended.

        Args:
            run_id: the run.
            after: the id of the last event that is known already; reading goes on behind it.
            live: begin with what comes from now on.
            on_disconnect: what becomes of the run if this reader leaves before the end. `continue`: nothing. `stop`: it
                is stopped, whoever else reads it. That takes `async with` or `aclose`: a loop that is merely left is
                not noticed.
            settled: hand an event out only once no later attempt can void it: its task's result is saved, or the run
                has ended. So each event that counts comes exactly once, in order, whatever is killed, and nothing
                has to be taken back. It costs time: a task's tokens come when the task has finished.

        Raises:
            InvalidRequest: `after` is no event id, both `after` and `live` were given, or `on_disconnect` is neither.
            RunNotFound: (when iterated) there is no such run, or it has expired.
        """
        if after is not None and live:
            raise InvalidRequest("live", "give an id to go on from, or live=True, not both")
        if on_disconnect not in ("continue", "stop"):
            raise InvalidRequest("on_disconnect", f"{on_disconnect!r} must be 'continue' or 'stop'")
        cursor = EventId.parse(after) if after is not None else None
        run_id = check_known_run_id(run_id)
        leave = partial(self._stop_for_reader, run_id) if on_disconnect == "stop" else None
        settling = Settling(self._settings.read_buffer, self._settings.read_buffer_bytes) if settled else None
        return EventStream(self._tails, run_id, after=cursor, live=live, on_leave=leave, settling=settling)

    async def _stop_for_reader(self, run_id: str) -> None:
        """Stop a run whose reader leaves, even if the reader is cancelled again while it waits for that."""

        async def stop() -> None:
            with suppress(RunNotFound):
                await self.stop(run_id, reason="its reader left")

        stopping = asyncio.create_task(stop(), name="runstream-stop")
        self._stopping.add(stopping)
        stopping.add_done_callback(self._stopping.discard)
        await asyncio.shield(stopping)

    @property
    def tails_watching(self) -> int:
        """How many readers of this client are caught up and wait for news: a figure for metrics."""
        return self._tails.watching

    @overload
    def text(
        self,
        run_id: str,
        *,
        node: str | Sequence[str] | None = None,
        ns: str | Sequence[str] | None = None,
        after: str | None = None,
        settled: Literal[True],
    ) -> AsyncIterator[Text]: ...
    @overload
    def text(
        self,
        run_id: str,
        *,
        node: str | Sequence[str] | None = None,
        ns: str | Sequence[str] | None = None,
        after: str | None = None,
        settled: bool = False,
    ) -> AsyncIterator[Text | Retraction]: ...
    async def text(
        self,
        run_id: str,
        *,
        node: str | Sequence[str] | None = None,
        ns: str | Sequence[str] | None = None,
        after: str | None = None,
        settled: bool = False,
    ) -> AsyncIterator[Text | Retraction]:
        """The tokens of a run's AI messages, as text.

        Where a worker has died, the next one may have to say something again. What has become void is taken back by a
        `Retraction`, which is no `str`: its `text` is the whole text of the run that stands, in the place of all pieces
        before it. A reader that cannot take text back asks for settled text.

        Args:
            run_id: the run; it must stream `messages`.
            node: only those of this node, or of one of these.
            ns: only those of this namespace, or of one of these: `""` for the graph itself, a subgraph by the name of
                its node, `"*"` for all. When left out: the graph itself if a node is named, else all.
            after: the id of the last event that is known already (`Text.event_id`). A retraction has the text of the
                whole run all the same.
            settled: only text that no later attempt can void, so without a `Retraction`; a task's text comes when the
                task has finished (see `tail`).

        Raises:
            InvalidRequest: the run does not stream `messages`.
            RunErrored, RunStopped, RunTimedOut, RunLost: the run ended so, after the text that came before.
        """
        await self._check_streams_messages(run_id)
        make = partial(SpokenText, _names(node), ns=ns, settled=settled)
        pieces = self._settled_pieces if settled else self._pieces
        async for piece in pieces(run_id, make, after):
            yield piece
        await self.wait(run_id)

    async def _settled_pieces(
        self, run_id: str, make: Callable[[], SpokenText], after: str | None
    ) -> AsyncIterator[Text | Retraction]:
        spoken = make()
        async with self.tail(run_id, after=after, settled=True) as events:
            async for event in events:
                if (piece := spoken.apply(event)) is not None:
                    yield piece

    async def _pieces(
        self, run_id: str, make: Callable[[], SpokenText], after: str | None
    ) -> AsyncIterator[Text | Retraction]:
        spoken = make()
        async with self.tail(run_id, after=after) as events:
            async for event in events:
                if after is not None and (voids := Voids.of(event)):
                    # What is void may have been said before this reader began.
                    spoken, told = await self._spoken_before(run_id, EventId.of(event.id), make()), EventId.parse(after)
                    after = None
                    if voids.after is not None and told > voids.after:
                        spoken.apply(event)
                        yield spoken.tell_all(event.id)
                        continue
                if (text := spoken.apply(event)) is not None:
                    yield text

    async def _spoken_before(self, run_id: str, place: EventId, spoken: SpokenText) -> SpokenText:
        """What a run has said up to an event."""
        async with self.tail(run_id) as events:
            async for event in events:
                if EventId.of(event.id) >= place:
                    break
                spoken.apply(event)
        return spoken

    async def messages(
        self, run_id: str, *, node: str | Sequence[str] | None = None, ns: str | Sequence[str] | None = None
    ) -> AsyncIterator[list[dict[str, Any]]]:
        """The run's messages as they stand, whenever they have changed, until its end.

        They are those of `Fold.messages`: streamed ones as far as they have come, and without what is void. What is
        there at once comes as one list, so a reader that takes its time gets fewer of them. Read them, do not change
        them; messages that have not changed stay the same objects.

        Args:
            run_id: the run; it must stream `messages`.
            node: only those of this node, or of one of these.
            ns: only those of this namespace, or of one of these: `""` for the graph itself, a subgraph by the name of
                its node, `"*"` for all. When left out: the graph itself if a node is named, else all.

        Raises:
            InvalidRequest: the run does not stream `messages`.
            RunErrored, RunStopped, RunTimedOut, RunLost: the run ended so, after the messages that came before.
        """
        await self._check_streams_messages(run_id)
        fold = Fold(_names(node), ns=ns)
        async with self.tail(run_id) as events:
            while batch := await events.batch():
                # The values of every step would be kept for nothing.
                changes = [fold.apply(event) for event in batch if event.mode != "values"]
                if any("messages" in changed for changed in changes):
                    yield fold.messages
        await self.wait(run_id)

    async def _check_streams_messages(self, run_id: str) -> None:
        info = await self.get(run_id)
        if "messages" not in info.stream_mode:
            raise InvalidRequest(
                "run_id",
                f"run {run_id} streams {', '.join(info.stream_mode)}; enqueue it with 'messages' among them",
            )

    async def wait(self, run_id: str) -> RunInfo:
        """Wait until a run has ended.

        Raises:
            RunErrored, RunStopped, RunTimedOut, RunLost: it ended so.
            RunNotFound: there is no such run, or it expired before its end was seen.
        """
        info = await self.get(run_id)
        if not info.status.ended:
            async with self.tail(run_id, live=True) as events:
                async for _ in events:
                    pass
            info = await self.get(run_id)
        if info.status in _FAILURES:
            kind, told = _FAILURES[info.status]
            raise kind(info, f"run {run_id} {told}{_because(info)}")
        return info

    async def result(self, run_id: str) -> Any:
        """Wait for a run and return what `ainvoke` would have: the final values, as JSON.

        A run that ended `interrupted` returns its values too, with `__interrupt__` among them.

        Raises:
            RunErrored, RunStopped, RunTimedOut, RunLost: the run ended so.
            RunNotFound: there is no such run, or it expired before its result was read.
        """
        await self.wait(run_id)
        return await self._records.result(check_known_run_id(run_id))

    async def get(self, run_id: str) -> RunInfo:
        """The run's record.

        Raises:
            RunNotFound: there is no such run, or it has expired.
        """
        return await self._records.get(check_known_run_id(run_id))

    async def get_many(self, run_ids: Iterable[str]) -> list[RunInfo | None]:
        """The records of many runs, in the order of their ids, in one round trip.

        None stands in the place of a run that does not exist, or has expired.
        """
        return await self._records.get_many([check_known_run_id(run_id) for run_id in run_ids])

    async def request(self, run_id: str) -> RunRequest:
        """What was asked for when the run was enqueued: the graph, its input or command, and the options of `astream`.

        Raises:
            RunNotFound: there is no such run, or it has expired.
            ProtocolError: this version cannot read it.
        """
        return request_of(await self._records.request(check_known_run_id(run_id)))

    async def requests(self, run_ids: Iterable[str]) -> list[RunRequest | None]:
        """What was asked for when these runs were enqueued, in the order of their ids, in one round trip.

        None stands in the place of a run that does not exist, or has expired.

        Raises:
            ProtocolError: this version cannot read one of them.
        """
        found = await self._records.requests([check_known_run_id(run_id) for run_id in run_ids])
        return [None if kept is None else request_of(kept) for kept in found]

    async def request_sizes(self, run_ids: Iterable[str]) -> list[int]:
        """Return how many bytes of JSON the requests of these runs have, in the order of their ids, in one round trip.

        It is 0 for a run that does not exist, or has expired.
        """
        return await self._records.request_sizes([check_known_run_id(run_id) for run_id in run_ids])

    async def runs(self, *, limit: int = 20, status: Status | None = None) -> list[RunInfo]:
        """The newest runs, the newest first.

        Args:
            limit: how many at most; 1 or more.
            status: only those in this state.

        Raises:
            InvalidRequest: the limit or the status is none.
        """
        if status is not None and status not in list(Status):
            raise InvalidRequest("status", f"{status!r} is no status; they are {', '.join(Status)}")
        return await _first(self._records.newest_first(), limit, status)

    def thread_runs(self, thread_id: str) -> AsyncIterator[RunInfo]:
        """A thread's runs, the newest first: those that have not ended, and those that are still kept.

        Raises:
            InvalidRequest: no thread can have this id.
        """
        return self._records.of_thread(check_thread_id(thread_id))

    async def last_runs(self, thread_ids: Iterable[str]) -> list[RunInfo | None]:
        """The newest run of each thread, in the order of the threads; None where there is none, or none any more.

        Needs two round trips, however many threads there are.

        Raises:
            InvalidRequest: no thread can have one of these ids.
        """
        return await self._records.last_of([check_thread_id(thread_id) for thread_id in thread_ids])

    async def active(self, thread_ids: Iterable[str]) -> list[int]:
        """How many runs of each thread have not ended, those that wait included; in the order of the threads.

        Needs two round trips, however many threads there are.

        Raises:
            InvalidRequest: no thread can have one of these ids.
        """
        return await self._records.active_of([check_thread_id(thread_id) for thread_id in thread_ids])

    def all_runs(self) -> AsyncIterator[RunInfo]:
        """All runs whose record exists, the newest first; read page by page."""
        return self._records.newest_first()

    async def dead(self, *, limit: int = 20) -> list[RunInfo]:
        """The dead letters, the last first: runs that ended as `lost`, kept for 7 days at least.

        `RunInfo.error` and `holders` tell what became of each; `requeue` enqueues it again.

        Args:
            limit: how many at most; 1 or more.

        Raises:
            InvalidRequest: the limit is none.
        """
        return await _first(self._records.dead(), limit)

    async def waiting_for(self, run_id: str) -> Waiting | None:
        """What a queued run waits for; None if it does not wait.

        Raises:
            RunNotFound: there is no such run, or it has expired.
        """
        return await self._waiting_runs.of(check_known_run_id(run_id))

    async def workers(self) -> list[WorkerInfo]:
        """The live workers, those that have said something within the last minute."""
        return await self._records.workers()

    def documents(self, kind: str, *, ttl: float) -> Documents:
        """JSON documents of a service in front of runstream, beside the runs and with this client's connections.

        Args:
            kind: what they are, a word without colons.
            ttl: how long one is kept after it was last written, in seconds.

        Raises:
            InvalidRequest: the kind is no word, or the time is none.
        """
        if not kind.isidentifier():
            raise InvalidRequest("kind", f"{kind!r} must be a word")
        check_number("ttl", ttl, least=0.001)
        return Documents(self._redis, self._keys, self._scripts, self._call, kind, ttl=ttl)

    def deliveries(self, holder: str) -> Deliveries:
        """What a service in front of runstream is to tell others of runs that have ended.

        Args:
            holder: the name of this process, which no other has.
        """
        return Deliveries(self._scripts, self._call, holder)

    @property
    def quotas(self) -> Quotas:
        """Counts what the callers of a service in front of runstream do, with this client's connections."""
        return Quotas(self._redis, self._keys, self._scripts, self._call)

    @property
    def usage(self) -> Usage:
        """Counts what the owners of a service in front of runstream keep, with this client's connections."""
        return Usage(self._redis, self._keys, self._scripts, self._call)


async def _first(runs: AsyncIterator[RunInfo], limit: int, status: Status | None = None) -> list[RunInfo]:
    check_number("limit", limit, least=1, whole=True)
    found: list[RunInfo] = []
    async for info in runs:
        if status is None or info.status == status:
            found.append(info)
        if len(found) >= limit:
            break
    return found


def _names(node: str | Sequence[str] | None) -> frozenset[str] | None:
    return None if node is None else frozenset([node] if isinstance(node, str) else node)


def _because(info: RunInfo) -> str:
    if info.error is not None:
        return f": {info.error.type}: {info.error.message}"
    return f": {info.stop_reason}" if info.stop_reason else ""
