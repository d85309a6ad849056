"""Judges the history of runs: nothing lost, nothing twice, one end, one at a time."""

from __future__ import annotations

from collections.abc import Sequence

from tests.support.oracle.history import (
    Call,
    History,
    Recording,
    Said,
    Saved,
    Segment,
    State,
    keys_without_end,
    read_record,
    read_stored,
)
from tests.support.oracle.marks import Mark, marks_in
from tests.support.oracle.state import fold, state_violations
from tests.support.oracle.stream import reader_violations, stream_violations, valid, voided
from tests.support.oracle.threads import thread_violations


def run_violations(run: History) -> list[str]:
    """What is wrong with a run; empty when nothing is."""
    found = [*stream_violations(run), *reader_violations(run), *state_violations(run)]
    return [f"run {run.run_id}: {told}" for told in found]


def violations(runs: Sequence[History], checkpoints: Sequence[Saved]) -> list[str]:
    """What is wrong with the runs of a thread, and with the thread; `checkpoints` the oldest first."""
    found = [told for run in runs for told in run_violations(run)]
    thread = runs[0].thread_id if runs else "?"
    return found + [f"thread {thread}: {told}" for told in thread_violations(runs, checkpoints)]


__all__ = [
    "Call",
    "History",
    "Mark",
    "Recording",
    "Said",
    "Saved",
    "Segment",
    "State",
    "fold",
    "keys_without_end",
    "marks_in",
    "read_record",
    "read_stored",
    "run_violations",
    "valid",
    "violations",
    "voided",
]
