"""The answers that last: a run's stream, its words, its result."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Literal

from fastapi import Request
from starlette.responses import Response

from runstream import EventStream, Retraction, RunFailedError, RunInfo, SpokenText
from runstream_gateway.bodies import StatelessRunCreate
from runstream_gateway.errors import ApiError
from runstream_gateway.jsonbytes import dumps
from runstream_gateway.reader import FIRST, Beginning, Reader
from runstream_gateway.routes.common import Access
from runstream_gateway.routes.creation import Created
from runstream_gateway.routes.places import places
from runstream_gateway.runs import Readable
from runstream_gateway.streaming import AwaitedResponse, FrameResponse, Source, TextResponse

_TAKEN_BACK = "[a worker was lost, and another goes on; what stands now:]"


def wants_text(request: Request) -> bool:
    """Whether a client asks for words rather than events."""
    return request.headers.get("accept", "").startswith("text/plain")


def check_words(request: Request, modes: Sequence[str]) -> None:
    """Refuse who asks for the words of a run that has none; to be asked before the run is there.

    Raises:
        ApiError: 422, the run does not stream `messages`.
    """
    if wants_text(request):
        _check_speaks(modes)


def _check_speaks(modes: Sequence[str]) -> None:
    if not {"messages", "messages-tuple"} & set(modes):
        raise ApiError(422, f"stream_mode: the run streams {', '.join(modes)}; its words need messages-tuple")


def readable(created: Created, body: StatelessRunCreate) -> Readable:
    """What has to be known of a run that has just been created to read it."""
    run, keys = created.run, tuple(body.feedback_keys or ())
    return Readable(run.run_id, run.thread_id, run.graph, tuple(body.stream_mode), keys)


async def new_stream(
    access: Access, created: Created, body: StatelessRunCreate, request: Request, *, settled: bool = False
) -> Response:
    """The stream of a run that has just been created, from its start."""
    run = readable(created, body)
    stop_when_left = body.on_disconnect == "cancel"
    # Also a client that is cut off before the first event has come back to the start.
    headers = places(created.path, "stream", after="-1", cancel_on_disconnect=stop_when_left, settled=settled)
    if wants_text(request):
        return await text_stream(access, run, headers=headers, stop_when_left=stop_when_left, settled=settled)
    return await _frames(access, run, Beginning(settled=settled), headers=headers, stop_when_left=stop_when_left)


async def joined_stream(
    access: Access,
    info: RunInfo,
    last_event_id: str | None,
    modes: Sequence[str] | None,
    *,
    stop_when_left: bool = False,
    settled: bool = False,
) -> Response:
    """The stream of a run for somebody who has come later, or comes back.

    Raises:
        ApiError: 422, `Last-Event-ID` is no id; 429, the caller has too many streams open.
    """
    path = f"/threads/{info.thread_id}/runs/{info.run_id}"
    beginning = Beginning.of(last_event_id, settled=settled)
    after = (info.last_event_id or FIRST) if beginning.live else last_event_id
    headers = places(path, "stream", after=after, modes=modes, cancel_on_disconnect=stop_when_left, settled=settled)
    return await _frames(
        access, Readable.of(info), beginning, modes=modes, headers=headers, stop_when_left=stop_when_left
    )


async def _frames(
    access: Access,
    run: Readable,
    beginning: Beginning,
    *,
    headers: Mapping[str, str],
    modes: Sequence[str] | None = None,
    stop_when_left: bool,
) -> Response:
    gateway = access.gateway

    def source() -> AbstractAsyncContextManager[Source]:
        reader: Reader = gateway.runs.reader(
            run,
            beginning,
            modes=modes,
            stop_when_left=stop_when_left,
            links=lambda: _links(access, run),
            making_way=lambda: gateway.streams.closing,
        )
        return reader

    return FrameResponse(
        source, access.streams, await access.stream_slot(), heartbeat=gateway.settings.heartbeat, headers=headers
    )


async def text_stream(
    access: Access,
    run: Readable,
    *,
    headers: Mapping[str, str] | None = None,
    stop_when_left: bool = False,
    settled: bool = False,
    nodes: Sequence[str] | None = None,
    namespaces: Sequence[str] | None = None,
) -> Response:
    """The words of a run's AI messages; only those of these nodes and namespaces, where some are named.

    Raises:
        ApiError: 422, the run does not stream `messages`.
    """
    _check_speaks(run.modes)
    client = access.gateway.client

    async def pieces() -> AsyncGenerator[str, None]:
        spoken = SpokenText(nodes, ns=namespaces, settled=settled)
        async with _followed(access, run.run_id, stop_when_left=stop_when_left, settled=settled) as events:
            async for event in events:
                piece = spoken.apply(event)
                if isinstance(piece, Retraction):
                    # What has been printed stays on a terminal; so it is said that it is void, and then what stands.
                    yield f"\n{_TAKEN_BACK}\n{piece.text}"
                elif piece is not None:
                    yield piece
        try:
            await client.wait(run.run_id)
        except RunFailedError as failed:
            yield f"\n[{failed}]"
        yield "\n"

    return TextResponse(pieces, access.streams, await access.stream_slot(), headers=headers)


async def _links(access: Access, run: Readable) -> dict[str, str]:
    """The links by which feedback on a run can be left; none for a read token, with which nothing is to be written."""
    if access.caller.scope is not None:
        return {}
    return await access.gateway.feedback.links(access.base_url, run.thread_id, run.run_id, run.feedback_keys)


async def awaited(access: Access, run: Readable, path: str, *, stop_when_left: bool) -> Response:
    """The result of a run, when it has ended; `path` is where the run is found, from the base URL."""
    gateway = access.gateway
    headers = places(path, "join", cancel_on_disconnect=stop_when_left)

    async def answer() -> bytes:
        if stop_when_left:
            async with _followed(access, run.run_id, live=True, stop_when_left=True) as events:
                async for _ in events:
                    pass
        outcome = await gateway.runs.outcome(run.run_id)
        if isinstance(outcome, dict) and (links := await _links(access, run)):
            outcome = {**outcome, "__feedback__": links}
        return dumps(outcome)

    return AwaitedResponse(
        answer, access.streams, await access.stream_slot(), heartbeat=gateway.settings.heartbeat, headers=headers
    )


@asynccontextmanager
async def _followed(
    access: Access, run_id: str, *, live: bool = False, stop_when_left: bool, settled: bool = False
) -> AsyncIterator[EventStream]:
    """The events of a run.

    A client that leaves may stop it. A gateway that leaves, or fails, does not: the client comes back.
    """
    gateway = access.gateway
    on_disconnect: Literal["stop", "continue"] = "stop" if stop_when_left else "continue"
    events = gateway.client.tail(run_id, live=live, on_disconnect=on_disconnect, settled=settled)
    try:
        yield events
    except Exception:
        events.detach()
        raise
    finally:
        if gateway.streams.closing:
            events.detach()
        await events.aclose()
