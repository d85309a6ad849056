"""Guards behind a real server: what handlers and tokens find in real requests."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Annotated, Any

import httpx
import pytest
import uvicorn
from fastapi import Depends, FastAPI, Request, WebSocket
from fastapi.responses import JSONResponse
from langgraph_sdk import Auth
from websockets.asyncio.client import connect

from runstream import Client
from runstream_gateway.auth.caller import Caller, Scope
from runstream_gateway.auth.guard import Guard
from runstream_gateway.auth.handlers import HandlersGuard
from runstream_gateway.auth.tokens import ReadTokens, TokenGuard
from runstream_gateway.errors import ApiError

auth = Auth()


@auth.authenticate
async def authenticate(body: dict[str, Any], path_params: dict[str, str], authorization: str | None) -> str:
    if authorization is None:
        raise Auth.exceptions.HTTPException(
            status_code=401, detail="who are you?", headers={"WWW-Authenticate": "Bearer"}
        )
    return f"{authorization} {body.get('name')} {path_params.get('thread_id')}"


async def who(request: Request) -> Caller:
    guard: Guard = request.app.state.guard
    return await guard.authenticate(request)


@pytest.fixture
async def served(client: Client) -> AsyncIterator[tuple[str, ReadTokens]]:
    """The address of a small service with a guard, and what makes its tokens."""
    tokens = ReadTokens(client)
    guard = TokenGuard(tokens, HandlersGuard(auth))
    app = FastAPI()
    app.state.guard = guard

    @app.exception_handler(ApiError)
    async def refused(request: Request, error: ApiError) -> JSONResponse:
        return JSONResponse({"detail": error.detail}, error.status, error.headers)

    @app.post("/threads/{thread_id}")
    async def post(caller: Annotated[Caller, Depends(who)], request: Request) -> dict[str, Any]:
        return {"caller": caller.identity, "body": await request.json()}

    @app.websocket("/stream")
    async def stream(websocket: WebSocket) -> None:
        caller = await guard.authenticate(websocket)
        await websocket.accept()
        await websocket.send_json({"caller": caller.identity, "run": caller.scope and caller.scope.run_id})
        await websocket.close()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="websockets-sansio"))
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        yield f"127.0.0.1:{listening.getsockname()[1]}", tokens
        server.should_exit = True
        await serving


async def test_a_handler_may_read_the_body_that_the_route_reads(served: tuple[str, ReadTokens]) -> None:
    async with httpx.AsyncClient(base_url=f"http://{served[0]}") as http:
        found = await http.post("/threads/t1", json={"name": "n"}, headers={"authorization": "me"})
        assert found.json() == {"caller": "me n t1", "body": {"name": "n"}}
        refused = await http.post("/threads/t1", json={})
        assert (refused.status_code, refused.json()) == (401, {"detail": "who are you?"})
        assert refused.headers["www-authenticate"] == "Bearer"


async def test_a_websocket_comes_with_a_token_in_its_url(served: tuple[str, ReadTokens]) -> None:
    address, tokens = served
    issued = await tokens.issue(Caller("u1"), Scope("t1", "r1"))
    async with connect(f"ws://{address}/stream?token={issued.token}") as websocket:
        assert await websocket.recv() == '{"caller":"u1","run":"r1"}'
