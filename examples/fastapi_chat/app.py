"""A chat over HTTP: each answer is a run on a worker, and the response is one of its readers.

The client may go away and come back, this process may be restarted: the run goes on, and `Last-Event-ID` says from
where to read on. Browsers' `EventSource` sends it by itself.

    uvicorn --app-dir examples/fastapi_chat app:app
    curl -N localhost:8000/chat --json '{"question": "Why is the sky blue?"}'
    curl -N localhost:8000/chat/RUN_ID -H 'Last-Event-ID: 1-7'
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, Header, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel

from runstream import Client, EventId, InvalidRequest, Retraction, RunFailedError, RunNotFound


class Question(BaseModel):
    """What the user asks; with a thread, as part of that conversation."""

    question: str
    thread_id: str | None = None


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """One client serves the whole process: all responses read over the same connection."""
    async with Client() as client:
        app.state.client = client
        yield


app = FastAPI(lifespan=lifespan)


def get_client(request: Request) -> Client:
    """The process's client."""
    client: Client = request.app.state.client
    return client


RunClient = Annotated[Client, Depends(get_client)]


@app.post("/chat")
async def ask(question: Question, client: RunClient) -> StreamingResponse:
    """Enqueue a run and stream its tokens; `Location` tells where to read on."""
    run = await client.enqueue(
        "chat",
        {"messages": [{"role": "user", "content": question.question}]},
        stream_mode="messages",
        thread_id=question.thread_id,
    )
    return _sse(client, run.run_id)


@app.get("/chat/{run_id}")
async def read_on(
    run_id: str, client: RunClient, last_event_id: Annotated[str | None, Header()] = None
) -> StreamingResponse:
    """Stream a run's tokens from the start, or from behind the last event that was seen."""
    # A response that has begun cannot become a 404 or a 422 any more.
    await client.get(run_id)
    if last_event_id is not None:
        EventId.parse(last_event_id)
    return _sse(client, run_id, last_event_id)


@app.delete("/chat/{run_id}")
async def stop(run_id: str, client: RunClient) -> dict[str, str]:
    """End a run that nobody wants any more; a reader who just leaves does not end it."""
    return {"status": (await client.stop(run_id, reason="the user pressed stop")).status}


def _sse(client: Client, run_id: str, after: str | None = None) -> StreamingResponse:
    headers = {"Location": f"/chat/{run_id}", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(_frames(client, run_id, after), media_type="text/event-stream", headers=headers)


async def _frames(client: Client, run_id: str, after: str | None) -> AsyncIterator[str]:
    """Server-sent events: `token` with text, at last `end` with the status, upon which the client closes.

    Where a worker has died and another says some of it again, `replace` has the whole text that stands now.
    """
    try:
        async for piece in client.text(run_id, after=after):
            if isinstance(piece, Retraction):
                yield _frame(piece.event_id, "replace", piece.text)
            else:
                yield _frame(piece.event_id, "token", piece)
        info = await client.get(run_id)
    except RunFailedError as failed:
        info = failed.info
    yield _frame(info.last_event_id or "", "end", {"status": info.status, "reason": info.stop_reason})


def _frame(event_id: str, kind: str, data: object) -> str:
    return f"id: {event_id}\nevent: {kind}\ndata: {json.dumps(data)}\n\n"


@app.exception_handler(RunNotFound)
async def not_found(_: Request, error: RunNotFound) -> JSONResponse:
    """The run was never there, or has expired."""
    return JSONResponse({"detail": str(error)}, status_code=404)


@app.exception_handler(InvalidRequest)
async def invalid(_: Request, error: InvalidRequest) -> JSONResponse:
    """An id that is none, or a request that runstream refused."""
    return JSONResponse({"detail": str(error)}, status_code=422)
