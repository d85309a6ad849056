"""How an attempt ended, as a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from langchain_core.callbacks import AsyncCallbackHandler
from langgraph.errors import GraphDrained
from langgraph.pregel import Pregel

from runstream.errors import ProtocolError, RunstreamError
from runstream.model import ErrorInfo, Status
from runstream_worker.chunks import Chunk
from runstream_worker.encoding import JsonEncoder
from runstream_worker.guard import Cause, Guard
from runstream_worker.infrastructure import Unavailable

_INTERRUPT = "__interrupt__"


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended.

    Attributes:
        status: the run's end.
        error: what went wrong, for those ends that are failures.
        reason: why somebody stopped it.
        result: the final values, as JSON; None where there are none.
    """

    status: Status
    error: ErrorInfo | None = None
    reason: str | None = None
    result: bytes | None = None


@dataclass(frozen=True)
class GivenBack:
    """An attempt that is over while its run is not: the next one goes on.

    Attributes:
        cause: `drained`: the worker leaves; `fault`: what it depends on has failed.
        message: what is told of it, should there be no attempt left.
    """

    cause: Literal["drained", "fault"]
    message: str


def failed(error: BaseException) -> Outcome | GivenBack:
    """The outcome of a graph that raised."""
    match error:
        case GraphDrained():
            return GivenBack("drained", "its worker was shut down")
        case Unavailable():
            return GivenBack("fault", str(error))
        case ProtocolError() | NothingToGoOnFrom():
            return Outcome(Status.LOST, ErrorInfo.of(error))
        case _:
            return Outcome(Status.ERROR, ErrorInfo.of(error))


def broken_off(guard: Guard) -> Outcome | GivenBack | None:
    """The outcome of an attempt that was ended from outside; None when it is not this worker's to end."""
    match guard.cause:
        case Cause.STOP | Cause.ROLLBACK:
            return Outcome(Status.STOPPED, reason=guard.detail)
        case Cause.TIMEOUT:
            return Outcome(Status.TIMEOUT, ErrorInfo(type="RunTimeout", message=guard.detail))
        case Cause.FULL:
            message = "the run published more bytes than its worker allows (max_stream_bytes)"
            return Outcome(Status.ERROR, ErrorInfo(type="StreamTooLarge", message=message))
        case Cause.REFUSED:
            return Outcome(Status.ERROR, ErrorInfo(type="PublishRefused", message=guard.detail))
        case Cause.DRAIN:
            return GivenBack("drained", guard.detail)
        case Cause.LOST:
            return None
        case None:
            raise RunstreamError("nothing has ended this attempt")


class NothingToGoOnFrom(RunstreamError):
    """A run whose graph keeps no checkpoints has lost its worker, and may not start over."""

    def __init__(self, graph: str) -> None:
        super().__init__(
            f"graph {graph!r} keeps no checkpoints to go on from (checkpointer=False, or the worker's is none), and "
            "nobody says that it may start over: enqueue with restartable=True, or start workers with --restartable"
        )


class FinalState(AsyncCallbackHandler):
    """Finds out what `ainvoke` would return, and whether the run was interrupted.

    The final values are those that the graph reports at its end as a LangChain callback, or, where the run streams
    them, the last that it emits. (Asking for the mode `values` behind the user's back would have LangGraph make
    the state's class of every step with version v2, and fail where a required field is written later.)
    """

    run_inline = True
    ignore_llm = ignore_chat_model = ignore_agent = ignore_retriever = ignore_retry = ignore_custom_event = True

    def __init__(self) -> None:
        self._values: Any = None
        self._streamed = False
        self._interrupts: list[object] = []
        self._interrupted = False

    def see(self, chunk: Chunk) -> None:
        """Look at a chunk. Only the root's `values` and `updates` say something."""
        if chunk.ns:
            return
        if chunk.mode == "values":
            self._values, self._streamed = chunk.data, True
        elif chunk.mode == "updates" and isinstance(chunk.data, dict) and _INTERRUPT in chunk.data:
            # One chunk for each task that asks; an empty one where the graph was told to stop at a node.
            self._interrupts += chunk.data[_INTERRUPT]
            self._interrupted = True

    def take(self, values: Any) -> None:
        """Take the values of a state that was saved, where the graph has not told any."""
        if not self._streamed:
            self._values = values

    async def on_chain_end(
        self,
        outputs: Any,
        *,
        run_id: UUID,  # noqa: ARG002 - as langchain calls it
        parent_run_id: UUID | None = None,
        **kwargs: Any,  # noqa: ARG002 - as langchain calls it
    ) -> None:
        """Take the root's output."""
        if parent_run_id is None and not self._streamed:
            self._values = outputs

    def outcome(
        self, graph: Pregel[Any, Any, Any, Any], output_keys: str | list[str] | None, json: JsonEncoder
    ) -> Outcome:
        """The outcome of a graph that came to its end.

        Raises:
            EncodingError: `json` is strict, and the final values hold something that JSON cannot carry.
        """
        values = self._values
        if isinstance(values, dict):
            values = _projected(values, graph.output_channels if output_keys is None else output_keys)
        result = None if values is None else json.encode_data("values", values)
        if self._interrupts:
            result = _with_interrupts(result, json.encode(self._interrupts, _INTERRUPT))
        return Outcome(Status.INTERRUPTED if self._interrupted else Status.SUCCESS, result=result)


def _projected(values: dict[str, Any], keys: str | Any) -> dict[str, Any] | None:
    """What `ainvoke` returns of the values that `astream` emits: the output schema's keys, None where it has none."""
    values = {key: value for key, value in values.items() if key != _INTERRUPT}
    return values if isinstance(keys, str) else {key: value for key, value in values.items() if key in keys} or None


def _with_interrupts(values: bytes | None, interrupts: bytes) -> bytes:
    """Put the interrupts among the values, if those are an object: by now it does not matter of which class."""
    if values is None or not values.startswith(b"{") or values == b"{}":
        return b'{"%b":%b}' % (_INTERRUPT.encode(), interrupts)
    return b'%b,"%b":%b}' % (values[:-1], _INTERRUPT.encode(), interrupts)
