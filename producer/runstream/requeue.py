"""Enqueuing a run again that ended before its graph did."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from runstream.errors import InvalidRequest, ProtocolError
from runstream.model import Status, new_run_id
from runstream.request import PreparedRun, RunRequest, digest_of, to_json

_AGAIN = (Status.LOST, Status.ERROR, Status.TIMEOUT, Status.STOPPED)
_INSTEAD = {
    Status.SUCCESS: "its graph has come to its end; enqueue what is to follow as a run of its own",
    Status.INTERRUPTED: "it waits for an answer; enqueue a Command on its thread",
}


@dataclass(frozen=True)
class KeptRequest:
    """What a run's record has of its request. Times are in milliseconds."""

    run_id: str
    status: Status
    request: bytes
    metadata: bytes
    retention: int
    queued_ttl: int
    max_attempts: int


def prepare_again(kept: KeptRequest) -> PreparedRun:
    """The run that goes on for one that has ended: the same request, on the same thread.

    It goes on from the ended run's last checkpoint, if the thread's is that. Its idempotency key is made of the ended
    run's id, so that a run is enqueued again once.

    Raises:
        InvalidRequest: the run has not ended, or has come to its graph's end.
        ProtocolError: its request cannot be read.
    """
    if kept.status not in _AGAIN:
        instead = _INSTEAD.get(kept.status, "it has not ended")
        raise InvalidRequest("run_id", f"run {kept.run_id} is {kept.status} and cannot be requeued: {instead}")
    ended, metadata = _read(kept)
    # Where the ended run went on for another and has saved nothing itself, the last checkpoint is that one's.
    request = ended.model_copy(update={"continues": [*ended.continues, kept.run_id]})
    metadata = {**metadata, "requeued_from": kept.run_id}
    return PreparedRun(
        run_id=new_run_id(),
        request=request,
        request_json=to_json(request),
        digest=digest_of(request, request.thread_id, metadata),
        metadata_json=json.dumps(metadata),
        idempotency_key=f"requeued from {kept.run_id}",
        due=0,
        due_is_absolute=False,
        retention=kept.retention,
        queued_ttl=kept.queued_ttl,
        strategy="enqueue",
        max_attempts=kept.max_attempts,
    )


def request_of(kept: KeptRequest) -> RunRequest:
    """A run's request.

    Raises:
        ProtocolError: it was not written by a version that this one can read.
    """
    return _read(kept)[0]


def _read(kept: KeptRequest) -> tuple[RunRequest, dict[str, Any]]:
    try:
        return RunRequest.model_validate_json(kept.request), json.loads(kept.metadata)
    except (ValidationError, ValueError) as error:
        told = " ".join(str(error).split())
        raise ProtocolError(f"the request of run {kept.run_id} cannot be read: {told}") from None
