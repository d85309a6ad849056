"""The demo of a take-over: the worker that executes the run is killed, and another one goes on with it."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runstream.cli.exits import CommandError
from runstream.client import Client, Run
from runstream.model import Status
from runstream.tasks import cancel
from runstream.text import text_of_message
from runstream_worker.commands.demo.reader import Reader
from runstream_worker.commands.demo.screen import Screen
from runstream_worker.commands.demo.stage import Stage, Workers
from runstream_worker.settings import WorkerSettings
from runstream_worker.supervisor import WorkerProcess

PROMPT = "What time is it, and what is 6 * 7? Answer at length."
_AGENT = "agent=runstream_worker.commands.demo.agent"
_LATE = 6
"""How many pieces of text the first reader has seen when the second one comes."""
_ENOUGH = 14
"""How many pieces of what a step says both readers have seen when its worker is killed; the offline model says 38."""
_PATIENCE = 60.0
"""Seconds within which somebody takes the run over. It takes some three, on a machine with time to spare."""
_TICK = 0.1
_FIRST, _SECOND = "A reads from the start", "B comes late and misses nothing"


@dataclass(frozen=True)
class _Killing:
    """Who was killed, and when (`time.monotonic`)."""

    worker: str
    process: WorkerProcess
    at: float


@dataclass(frozen=True)
class Report:
    """What there is to say in the end.

    Attributes:
        run_id: of the run that was taken over.
        killed: its first worker.
        code: how that one's process has ended, as its parent is told: negative, the number of the signal.
        took: seconds from the kill until both readers had the first event of the next attempt.
        result_text: what the model has said according to the result that the run has saved.
        readers: who have read the run to its end.
    """

    run_id: str
    killed: str
    code: int
    took: float
    result_text: str
    readers: tuple[Reader, Reader]

    @property
    def next_worker(self) -> str:
        """Who went on with the run."""
        return self.readers[0].workers[1]

    @property
    def was_taken_over(self) -> bool:
        """Whether it was a kill, and another worker went on: one, and with that the run had its end."""
        was_killed = self.code == -signal.SIGKILL and self.next_worker != self.killed
        return was_killed and all(reader.workers == [self.killed, self.next_worker] for reader in self.readers)

    @property
    def alike(self) -> bool:
        """Whether both readers have seen the same, and hold the same."""
        first, second = self.readers
        return first.events == second.events and first.text == second.text

    @property
    def text_equals_result(self) -> bool:
        """Whether what they hold is what was saved: each token is there, and none is there twice.

        It is looked at in two ways, for a text's pieces and a list of messages are added up by different rules.
        """
        held = [text for reader in self.readers for text in (reader.text, _said(reader.fold.messages))]
        return self.result_text != "" and all(text == self.result_text for text in held)

    @property
    def all_well(self) -> bool:
        """Whether everything is as it has to be."""
        succeeded = self.readers[0].fold.status is Status.SUCCESS
        return succeeded and self.was_taken_over and self.alike and self.text_equals_result


async def show(stage: Stage, prompt: str) -> bool:
    """Show it; tell whether all went well.

    Raises:
        CommandError: nothing could be shown.
    """
    async with stage.client() as client:
        await client.ping()
        stage.story.passing("workers", "two are starting (LangChain takes a moment to import) ...")
        async with stage.workers(2, _AGENT) as workers:
            stage.story.step("workers", f"{' and '.join(workers)}, processes of their own")
            report = await _perform(stage, client, workers, await stage.ask(client, prompt))
    _tell(report, stage)
    return report.all_well


async def _perform(stage: Stage, client: Client, workers: Workers, run: Run) -> Report:
    async with stage.readers(run.run_id, _FIRST, _SECOND) as (join, screen):
        first = join(_FIRST)
        await first.until(lambda reader: reader.pieces >= _LATE)
        readers = first, join(_SECOND)
        killing = await _kill(workers, readers, screen)
        if killing is not None:
            await _watch(killing, readers, screen)
    if killing is None or len(first.attempts) < 2:
        await client.wait(run.run_id)  # if it has failed, that is what there is to say
        raise CommandError("the run was over before its worker was dead; --prompt can ask for a longer answer")
    result = await client.result(run.run_id)
    code, took = await killing.process.wait(), _took(killing, readers)
    return Report(run.run_id, killing.worker, code, took, _said(result["messages"]), readers)


async def _kill(workers: Workers, readers: tuple[Reader, Reader], screen: Screen) -> _Killing | None:
    """Kill the worker that has the run, once both readers have read half a sentence; None if there is none."""
    for reader in readers:
        await reader.until(lambda reader: reader.pieces_of_step >= _ENOUGH)
    if any(reader.is_done for reader in readers):
        return None
    worker = readers[0].workers[-1]
    if worker not in workers:
        raise CommandError(f"worker {worker} has taken the run, which is none of the demo's; leave --namespace out")
    process = workers[worker]
    at = time.monotonic()
    process.kill()
    killing = _Killing(worker, process, at)
    screen.foot(_told(killing), "red")
    return killing


async def _watch(killing: _Killing, readers: tuple[Reader, Reader], screen: Screen) -> None:
    """Count the seconds until both readers know of the take-over, or have read all there is."""
    counting = asyncio.create_task(_count(killing, screen))
    try:
        async with asyncio.timeout(_PATIENCE):
            for reader in readers:
                await reader.until(lambda reader: len(reader.attempts) > 1)
    except TimeoutError:
        raise CommandError(f"nobody has taken the run over within {_PATIENCE:g} s") from None
    finally:
        await cancel([counting])
    if all(len(reader.attempts) > 1 for reader in readers):
        screen.foot(f"worker {readers[0].workers[1]} took over {_took(killing, readers):.2f} s later", "green")


async def _count(killing: _Killing, screen: Screen) -> None:
    while True:
        await asyncio.sleep(_TICK)
        since = time.monotonic() - killing.at
        told = f"{_told(killing)}; its lease of {WorkerSettings.lease:g} s has to run out: {since:.1f} s"
        screen.foot(told, "red", passing=True)


def _told(killing: _Killing) -> str:
    return f"kill -9 {killing.process.pid}: worker {killing.worker} is dead"


def _took(killing: _Killing, readers: tuple[Reader, Reader]) -> float:
    """Seconds from the kill until both readers had the first event of the next attempt."""
    return max(reader.attempts[1] for reader in readers) - killing.at


def _said(messages: Sequence[dict[str, Any]]) -> str:
    return "".join(text_of_message(message) for message in messages if message["type"] == "ai")


def _tell(report: Report, stage: Stage) -> None:
    if not stage.story.output.pretty:
        stage.story.output.json(_figures(report, stage))
        return
    story, first = stage.story, report.readers[0]
    story.end(report.run_id, first.fold)
    code = report.code
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    story.step("killed", f"worker {report.killed}, by {how}", ok=code == -signal.SIGKILL)
    told = f"worker {report.next_worker}, {report.took:.2f} s later; {first.fold.voided} events were void"
    story.step("went on", told, ok=report.was_taken_over)
    same = "the saved result's, and the same for both: no token lost, none twice"
    differs = "NOT the same for both" if report.text_equals_result else "NOT the saved result's"
    is_right = report.text_equals_result and report.alike
    story.step("text", same if is_right else differs, ok=is_right)
    alike = "the same for both" if report.alike else "NOT the same for both"
    story.step("events", f"{len(first.events)}, {alike}", ok=report.alike)
    story.step("next", "runstream dev my_agent.py:graph", ok=None)


def _figures(report: Report, stage: Stage) -> dict[str, Any]:
    first = report.readers[0]
    return {
        "embedded": stage.redis.embedded,
        "run_id": report.run_id,
        "killed_worker": report.killed,
        "killed_exit_code": report.code,
        "next_worker": report.next_worker,
        "seconds_to_take_over": round(report.took, 3),
        "void_events": first.fold.voided,
        "void_tokens": first.void_pieces,
        "tokens": first.pieces - first.void_pieces,
        "text_equals_result": report.text_equals_result,
        "readers_saw_the_same": report.alike,
        "events": len(first.events),
        "end": first.events[-1].data,
    }
