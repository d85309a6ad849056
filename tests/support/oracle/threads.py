"""What has to hold of the runs of one thread: they take turns, in their order, and write one line of checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise

from tests.support.oracle.history import History, Saved
from tests.support.oracle.state import fold


def thread_violations(runs: Sequence[History], checkpoints: Sequence[Saved]) -> Iterator[str]:
    """What is wrong with a thread.

    Args:
        runs: all of its runs.
        checkpoints: all that it has of the graph itself, the oldest first.
    """
    # Who never began has not been in anybody's way.
    begun = [run for run in runs if "first_started_at" in run.record]
    begun.sort(key=lambda run: float(run.record["place"]))
    for first, second in pairwise(begun):
        ended, started = int(first.record.get("ended_at", "0")), int(second.record["first_started_at"])
        if not ended or ended > started:
            yield f"run {second.run_id} began at {started}, while {first.run_id} had not ended (at {ended or None})"
        yield from _rolled_back(first, second) if first.is_rolled_back else _kept(first, second)
    # What is left of a run that was to be rolled back goes with the next attempt on the thread.
    gone = {run.run_id for run in runs if run.is_rolled_back}
    kept = [checkpoint for checkpoint in checkpoints if checkpoint.run_id not in gone]
    if not any(run.forgets for run in runs):
        yield from _line(kept)
    yield from _turns([run.run_id for run in begun], kept)


def _kept(first: History, second: History) -> Iterator[str]:
    now = {said.id for said in second.after.messages}
    gone = [said.id for said in first.after.messages if said.id not in now | first.after.pending]
    if gone:
        yield f"messages {gone} of run {first.run_id} are not in the state after {second.run_id}"


def _rolled_back(run: History, later: History) -> Iterator[str]:
    """Nothing of it is in the state."""
    said = fold(run.stored)
    left = [one for one in later.after.messages if one.id in said or (one.type == "human" and one.text in run.inputs)]
    if left:
        yield f"run {run.run_id} was rolled back, and the state after {later.run_id} has {left}"


def _line(checkpoints: Sequence[Saved]) -> Iterator[str]:
    """Each checkpoint stands on the one before: nobody has gone on from an older one, or written beside."""
    for before, here in pairwise(checkpoints):
        if here.parent != before.id:
            yield f"checkpoint {here.id} of run {here.run_id} stands on {here.parent}, and not on {before.id}"


def _turns(order: Sequence[str], checkpoints: Sequence[Saved]) -> Iterator[str]:
    wrote = [run_id for run_id, _ in groupby(checkpoint.run_id for checkpoint in checkpoints)]
    known = [run_id for run_id in order if run_id in wrote]
    if wrote != known:
        yield f"checkpoints were written by runs {wrote}, and their order is {known}"
