"""One attempt of one run, from the claim to the end. A newcomer reads this file first.

claimed -> request -> execution, watched by the guard -> outcome -> finish, or give back

What happens between request and outcome is told in `execution`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import orjson
from langgraph.errors import EmptyInputError, GraphDrained
from pydantic import ValidationError
from redis.exceptions import RedisError

from runstream.errors import AttemptFenced, ProtocolError, RunstreamError
from runstream.faults import is_passing, patiently
from runstream.model import ErrorInfo, Status
from runstream.request import RunRequest
from runstream.scripts import Claimed, Hold
from runstream.tasks import cancel
from runstream_worker.encoding import JsonEncoder
from runstream_worker.execution import Execution, Means
from runstream_worker.guard import Cause, Guard
from runstream_worker.infrastructure import Unavailable
from runstream_worker.outbox import Publisher
from runstream_worker.outcome import GivenBack, Outcome, broken_off, failed
from runstream_worker.redis_saver import Fence
from runstream_worker.run_saver import forget_runs
from runstream_worker.tenure import Tenure

_WRITE_RETRY = 0.05
_WRITE_RETRY_MAX = 1.0
_CANCEL_AGAIN_AFTER = 0.5
"""Long enough for a node that cleans up when it is cancelled, in seconds."""
_FAULT_DELAY = 1_000
_LONGEST_FAULT_DELAY = 60_000
"""How long a run waits whose worker was left by what it depends on, in ms: doubled with each fault, up to this."""
_ROLLBACK_WITHIN = 30.0
_DISOWN_WITHIN = 5.0

_logger = logging.getLogger("runstream.worker")


class Attempt:
    """One attempt: `run` executes it, `guard` ends it, `drain` has it stop where the next one can go on.

    Args:
        claimed: the attempt, as it was handed to this worker.
        means: what the process has.
        has_room: whether the worker has a free slot.
        used: the highest number under which this worker has executed the run already, 0 for none. An attempt whose
            number is not higher executes nothing: readers may have other events under its ids.
    """

    def __init__(self, claimed: Claimed, means: Means, *, has_room: Callable[[], bool], used: int = 0) -> None:
        self.run_id = claimed.run_id
        self.number = claimed.attempt
        self.guard = Guard()
        self._claimed = claimed
        self._means = means
        self._used = used
        self._hold = Hold(claimed.run_id, claimed.attempt, means.worker_id)
        tenure = Tenure(claimed, means.worker_id, means.scripts, lease=means.settings.lease, has_room=has_room)
        self._execution: Execution | None = None
        self._is_draining = False
        self._write_retry = _WRITE_RETRY
        self._json = JsonEncoder()
        self._publisher = Publisher(
            means.outbox,
            self._hold,
            self.guard,
            # A later attempt's own event is still to be written.
            first_seq=0 if claimed.after else 1,
            limit=means.settings.buffer_events,
            limit_bytes=means.settings.buffer_bytes,
            json=self._json,
            tenure=tenure,
        )

    async def run(self) -> Outcome | GivenBack | None:
        """Execute the attempt and write its end, or give the run back; None when the run was lost to another holder."""
        if self.number <= self._used:
            return await self._decline()
        try:
            request = self._request()
        except ProtocolError as error:
            _logger.warning("run %s cannot be read: %s", self.run_id, error)
            return await self._leave(failed(error), None)
        strict = request.strict_json
        self._json.strict = self._means.settings.strict_json if strict is None else strict
        self._execution = Execution(request, self._claimed, self._means, self._publisher)
        if self._is_draining:
            self._execution.drain()
        ended = await self._leave(await self._supervise(request, self._execution), request)
        if ended is None:
            await self._disown(self._hold)
        return ended

    def is_again(self, claimed: Claimed) -> bool:
        """Whether Redis, which has forgotten this attempt, has handed it out to this worker once more."""
        same = (claimed.attempt, claimed.after, claimed.created_at)
        return same == (self.number, self._claimed.after, self._claimed.created_at) and self.guard.cause is None

    async def look(self) -> None:
        """Ask Redis whether the attempt still holds its run; end it if not."""
        try:
            held = await self._publisher.is_held()
        except AttemptFenced:
            return  # It is over already.
        except RedisError as error:
            _logger.warning("run %s: cannot ask whether attempt %d holds it: %s", self.run_id, self.number, error)
            return
        if not held:
            self.guard.end(Cause.LOST)

    async def _decline(self) -> GivenBack | None:
        """Give the run back for an attempt with a higher number than this worker has used."""
        _logger.warning("run %s: Redis has forgotten attempt %d", self.run_id, self._used)
        if self.number < self._used:
            await self._disown(self._hold._replace(attempt=self._used))
        return await self._give_back(GivenBack("drained", "Redis had forgotten an attempt of this number"))

    async def _disown(self, hold: Hold) -> None:
        """Make sure that Redis knows of an attempt that is over, even if it has come back without its claim."""
        call = partial(self._means.scripts.disown, hold)
        try:
            forgotten = await patiently(call, _DISOWN_WITHIN, outlasts=is_passing)
        except (RedisError, OSError) as error:
            _logger.warning("run %s: cannot take down that attempt %d is over: %s", self.run_id, hold.attempt, error)
        else:
            if forgotten:
                _logger.warning("run %s: Redis has lost what it knew of attempt %d", self.run_id, hold.attempt)

    def drain(self) -> None:
        """Stop at the end of the step that runs, if the graph keeps checkpoints."""
        self._is_draining = True
        if self._execution is not None:
            self._execution.drain()

    def _request(self) -> RunRequest:
        try:
            return RunRequest.model_validate_json(self._claimed.request)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"]) or "request"
            raise ProtocolError(
                f"the request was written by another version of runstream: {place}: {first['msg']}"
            ) from None

    async def _supervise(self, request: RunRequest, execution: Execution) -> Outcome | GivenBack | None:
        """Run the graph until it ends or the guard says so; a graph that ignores its cancellation is left behind."""
        if self.guard.has_ended:
            return broken_off(self.guard)
        with Fence.of(self._hold).around():
            work = asyncio.create_task(execution.run(), name=f"run-{self.run_id}")
        ended = asyncio.create_task(self.guard.wait())
        timeout = request.timeout or self._means.settings.run_timeout
        try:
            await asyncio.wait({work, ended}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended.cancel()
        if not work.done() and self.guard.cause is None:
            self.guard.end(Cause.TIMEOUT, f"the attempt took longer than {timeout} s")
        if not work.done():
            await self._cancel(work, execution)
            return self._broken_off(execution)
        # A graph that came to its end in the same moment has done so; one that raised did it for being broken off.
        came_to_end = not work.cancelled() and work.exception() is None
        return self._outcome_of(work) if came_to_end or self.guard.cause is None else self._broken_off(execution)

    def _broken_off(self, execution: Execution) -> Outcome | GivenBack | None:
        outcome = broken_off(self.guard)
        has_nothing = execution.is_open and execution.saver is None and not execution.may_start_over
        if isinstance(outcome, GivenBack) and has_nothing:
            return Outcome(Status.LOST, ErrorInfo(type="WorkerShutdown", message=self.guard.detail))
        return outcome

    async def _cancel(self, work: asyncio.Task[Outcome], execution: Execution) -> None:
        execution.break_off()
        try:
            async with asyncio.timeout(self._means.settings.cancel_grace):
                await cancel([work], again_after=_CANCEL_AGAIN_AFTER)
        except TimeoutError:
            _logger.warning("run %s: the graph does not react to its cancellation and is left behind", self.run_id)
        self._publisher.seal()
        work.add_done_callback(_look_at)

    def _outcome_of(self, work: asyncio.Task[Outcome]) -> Outcome | GivenBack | None:
        if work.cancelled():
            return failed(asyncio.CancelledError("a node of the graph cancelled its own task"))
        error = work.exception()
        if error is None:
            return work.result()
        if isinstance(error, AttemptFenced):
            # It does not hold the run, and has nothing to say of its end.
            self.guard.end(Cause.LOST)
            return None
        if isinstance(error, Unavailable):
            _logger.warning("run %s is given back: %s", self.run_id, error)
        elif not isinstance(error, RunstreamError | EmptyInputError | GraphDrained):
            _logger.warning("run %s: the graph raised", self.run_id, exc_info=error)
        return failed(error)

    # --- ending ----------------------------------------------------------------------------------------------------

    async def _leave(
        self, outcome: Outcome | GivenBack | None, request: RunRequest | None
    ) -> Outcome | GivenBack | None:
        """Write the end or give the run back, however often it takes; None when the run is not this attempt's."""
        await self._publisher.flush()
        self._warn_of_markers()
        if self.guard.cause in (Cause.LOST, Cause.FULL, Cause.REFUSED):
            # Learned from the replies to the last events; what was not published cannot have been a success.
            outcome = broken_off(self.guard)
        match outcome:
            case Outcome():
                if self.guard.cause in (Cause.STOP, Cause.ROLLBACK) and request is not None:
                    await self._roll_back_if_wanted(request.thread_id)
                return await self._finish(outcome)
            case GivenBack():
                return await self._give_back(outcome)
            case None:
                return None

    def _warn_of_markers(self) -> None:
        """Log, once for the attempt, where the run shows markers in the place of values."""
        if replaced := self._json.replaced:
            places = ", ".join(f"{place} ({what})" for place, what in replaced.items())
            _logger.warning(
                "run %s: readers see the marker 'not_implemented' in the place of values that have no JSON form: %s%s; "
                "enqueue with strict_json=True to make that an error",
                self.run_id,
                places,
                " and perhaps more" if self._json.has_replaced_more else "",
            )

    async def _roll_back_if_wanted(self, thread_id: str) -> None:
        """Remove what the run has saved, if that was asked for. What this does not get to do the next attempt does."""
        saver = None if self._execution is None else self._execution.saver
        if saver is None:
            return
        try:
            async with asyncio.timeout(_ROLLBACK_WITHIN):
                call = partial(self._means.scripts.stop_action, self.run_id)
                # Replies to events tell of the wish and not of the action, and come first while a model speaks.
                if self.guard.cause is Cause.ROLLBACK or await patiently(call, _ROLLBACK_WITHIN) == "rollback":
                    await forget_runs(saver, thread_id, [self.run_id])
        except Exception:
            _logger.exception("run %s was to be rolled back, and its checkpoints cannot be removed yet", self.run_id)

    async def _finish(self, outcome: Outcome) -> Outcome | None:
        outcome = _of_bounded_size(outcome, self._means.settings.max_stream_bytes)
        record, event = _record(outcome), self._end_event(outcome)
        while self.guard.cause is not Cause.LOST:
            try:
                reply = await self._means.scripts.finish(
                    self._hold,
                    end_seq=self._publisher.next_seq,
                    event=event,
                    status=outcome.status,
                    record=record,
                    leave_gap=self._publisher.leaves_gap,
                )
            except (RedisError, OSError) as error:
                await self._wait_for_redis(error)
                continue
            if reply.outcome == "ok":
                self._publisher.close()
                return outcome
            # Redis has come back with less than it had acknowledged, or another worker has the run.
            if reply.outcome == "behind":
                self._publisher.go_back(reply.last_seq)
            elif not await self._publisher.is_held():
                break
            await self._publisher.flush()
        self._publisher.close()
        return None

    async def _give_back(self, given: GivenBack) -> GivenBack | None:
        self._publisher.close()
        is_fault = given.cause == "fault"
        while self.guard.cause is not Cause.LOST:
            try:
                reply = await self._means.scripts.release(
                    self._hold,
                    given.cause,
                    given.message,
                    delay=_FAULT_DELAY if is_fault else 0,
                    longest_delay=_LONGEST_FAULT_DELAY,
                    max_faults=self._means.settings.max_faults,
                )
            except (RedisError, OSError) as error:
                await self._wait_for_redis(error)
            else:
                return given if reply != "not held" else None
        return None

    async def _wait_for_redis(self, error: Exception) -> None:
        if not is_passing(error):
            raise error
        if self._write_retry == _WRITE_RETRY:
            _logger.warning("run %s: cannot write its end, trying again: %s", self.run_id, error)
        await asyncio.sleep(self._write_retry)
        self._write_retry = min(self._write_retry * 2, _WRITE_RETRY_MAX)

    def _end_event(self, outcome: Outcome) -> bytes:
        data: dict[str, Any] = {
            "status": outcome.status,
            "at": time.time_ns() // 1_000_000,
            "worker": self._hold.worker_id,
        }
        if outcome.error is not None:
            data["error"] = outcome.error.model_dump()
        if outcome.reason is not None:
            data["reason"] = outcome.reason
        if self._publisher.next_seq == 0:
            data |= {"after": self._claimed.after, "after_worker": self._claimed.after_worker}
        return orjson.dumps({"m": "end", "d": data})


def _of_bounded_size(outcome: Outcome, limit: int) -> Outcome:
    """The outcome, or the error that its result is too large; over 512 MB Redis would cut the connection."""
    size = len(outcome.result or b"")
    if size <= limit:
        return outcome
    message = f"the final values are {size:,} bytes of JSON and the worker allows {limit:,} (max_stream_bytes)"
    return Outcome(Status.ERROR, ErrorInfo(type="ResultTooLarge", message=message))


def _record(outcome: Outcome) -> dict[str, str | bytes]:
    record: dict[str, str | bytes] = {}
    if outcome.error is not None:
        record["error"] = outcome.error.model_dump_json()
    if outcome.reason is not None:
        record["stop"] = outcome.reason
    if outcome.result is not None:
        record["result"] = outcome.result
    return record


def _look_at(work: asyncio.Task[Outcome]) -> None:
    """Retrieve what a cancelled graph raised, so that asyncio does not complain that nobody did."""
    if not work.cancelled() and (error := work.exception()) is not None:
        _logger.debug("a cancelled graph raised", exc_info=error)
