"""A run's stream over a WebSocket, beside SSE on the same path: the same frames, ids and ways to resume."""

from __future__ import annotations

import logging
from typing import Annotated

from fastapi import APIRouter, Query, WebSocket
from redis.exceptions import RedisError
from starlette.websockets import WebSocketDisconnect

from runstream import InvalidRequest, RunInfo, RunNotFound, RunstreamError
from runstream.faults import reason_of
from runstream_gateway.errors import ApiError
from runstream_gateway.origins import check_origin
from runstream_gateway.reader import Beginning
from runstream_gateway.routes.common import Access, access_of_websocket, gateway_of, query_list
from runstream_gateway.routes.runs import find, reading
from runstream_gateway.runs import Readable
from runstream_gateway.streaming import ReaderLeft
from runstream_worker.infrastructure import Unavailable

_logger = logging.getLogger("runstream.gateway")

router = APIRouter(tags=["runs"])
_REFUSED = 4000
"""A refusal's HTTP status is added: 4404 for what is not there. The range is for private use (RFC 6455, 7.4.2)."""
_GOING_AWAY = 1001
_FAILED = 1011
_LONGEST_REASON = 120


@router.websocket("/threads/{thread_id}/runs/{run_id}/stream")
async def stream(
    websocket: WebSocket,
    thread_id: str,
    run_id: str,
    last_event_id: str | None = None,
    stream_mode: Annotated[list[str] | None, Query()] = None,
    cancel_on_disconnect: bool = False,
    settled: bool = False,
) -> None:
    """Send a run's frames as objects with `event`, `data` and `id`; closed with 1000 after the run's end.

    Without `last_event_id` (or a header `Last-Event-ID`) the reader begins with what comes from now on.
    """
    # Refused before it is accepted, a browser is not told why.
    await websocket.accept()
    try:
        # Browsers let any page open a WebSocket, and leave it to the server to look from where.
        check_origin(websocket.headers, gateway_of(websocket).settings.cors)
        access = await access_of_websocket(websocket)
        info = await find(access, thread_id, run_id, *reading(cancels=cancel_on_disconnect))
        beginning = Beginning.of(last_event_id or websocket.headers.get("last-event-id"), settled=settled)
        async with await access.stream_slot():
            modes = query_list(stream_mode)
            await _pump(websocket, access, info, beginning, modes, stop_when_left=cancel_on_disconnect)
    except ApiError as error:
        await _say_goodbye(websocket, _REFUSED + error.status, error.detail)
    except ReaderLeft:
        await _say_goodbye(
            websocket, _GOING_AWAY, "the gateway shuts down, or the read token is over; go on from the last id"
        )
    except WebSocketDisconnect:
        # It has gone while it was being sent something.
        return
    except InvalidRequest as error:
        await _say_goodbye(websocket, _REFUSED + 422, str(error))
    except Unavailable as error:
        _logger.warning("a WebSocket needs what is away: %s", error)
        await _say_goodbye(websocket, _FAILED, error.public)
    except RunNotFound as error:
        await _say_goodbye(websocket, _FAILED, str(error))
    except RedisError as error:
        _logger.warning("Redis refuses or is away: %s", error)
        await _say_goodbye(websocket, _FAILED, reason_of(error))
    except RunstreamError as error:
        _logger.exception("a WebSocket failed")
        await _say_goodbye(websocket, _FAILED, str(error))
    else:
        await _say_goodbye(websocket, 1000, "the run has ended")


async def _pump(
    websocket: WebSocket,
    access: Access,
    info: RunInfo,
    beginning: Beginning,
    modes: list[str] | None,
    *,
    stop_when_left: bool,
) -> None:
    gateway, run = access.gateway, Readable.of(info)
    async with (
        access.streams.entered(websocket.receive),
        gateway.runs.reader(
            run, beginning, modes=modes, stop_when_left=stop_when_left, making_way=lambda: gateway.streams.closing
        ) as reader,
    ):
        while (frames := await reader.batch()) is not None:
            for frame in frames:
                try:
                    await websocket.send_text(frame.text)
                except WebSocketDisconnect:
                    # It has gone while it was being sent something.
                    return


async def _say_goodbye(websocket: WebSocket, code: int, reason: str) -> None:
    try:
        await websocket.close(code, reason[:_LONGEST_REASON])
    except (RuntimeError, WebSocketDisconnect):
        # It has been closed by the other side.
        return
