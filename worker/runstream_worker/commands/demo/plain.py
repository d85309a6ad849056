"""The demo: one reader from the start, one that comes late."""

from __future__ import annotations

import time
from dataclasses import dataclass

from runstream.client import Run
from runstream.model import Status
from runstream_worker.commands.demo.reader import Reader
from runstream_worker.commands.demo.stage import Stage

PROMPT = "What time is it, and what is 6 * 7?"
_LATE = 15
"""How many pieces of text the first reader has seen when the second one comes."""
_FIRST, _SECOND = "A reads from the start", "B comes late and misses nothing"


@dataclass(frozen=True)
class _Report:
    """What there is to say in the end."""

    run: Run
    worker: str
    began: float
    took: float
    first: Reader
    second: Reader
    late_by: int

    @property
    def alike(self) -> bool:
        """Whether both readers have seen the same."""
        return self.first.events == self.second.events

    @property
    def to_first(self) -> float | None:
        """Seconds until the first token."""
        return None if self.first.first_text_at is None else self.first.first_text_at - self.began


async def show(stage: Stage, prompt: str) -> bool:
    """Show it; tell whether all went well."""
    async with stage.client() as client:
        await client.ping()
        stage.story.passing("worker", "starting (LangChain takes a moment to import) ...")
        async with stage.workers(1) as workers:
            (worker,) = workers
            stage.story.step("worker", f"{worker}, a process of its own")
            began = time.monotonic()
            run = await stage.ask(client, prompt)
            async with stage.readers(run.run_id, _FIRST, _SECOND) as (join, _):
                first = join(_FIRST)
                await first.until(lambda reader: reader.pieces >= _LATE)
                late_by = first.pieces
                second = join(_SECOND)
            report = _Report(run, worker, began, time.monotonic() - began, first, second, late_by)
    _tell(report, stage)
    return report.alike and first.fold.status is Status.SUCCESS


def _tell(report: _Report, stage: Stage) -> None:
    if not stage.story.output.pretty:
        stage.story.output.json(
            {
                "embedded": stage.redis.embedded,
                "run_id": report.run.run_id,
                "worker": report.worker,
                "end": report.first.events[-1].data,
                "tokens": report.first.pieces,
                "seconds": round(report.took, 3),
                "seconds_to_first_token": None if report.to_first is None else round(report.to_first, 3),
                "events": len(report.first.events),
                "readers_saw_the_same": report.alike,
            }
        )
        return
    story = stage.story
    story.end(report.run.run_id, report.first.fold)
    if report.to_first is not None:
        story.step("tokens", f"{report.first.pieces} in {report.took:.2f} s, the first after {report.to_first:.2f} s")
    same = "the same for both" if report.alike else "NOT the same for both"
    told = f"{len(report.first.events)}, {same}; B came {report.late_by} tokens late"
    story.step("events", told, ok=report.alike)
    story.step("next", "runstream dev my_agent.py:graph", ok=None)
