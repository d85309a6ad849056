"""`langgraph_sdk.get_client()` without a URL, in nodes and in a project's own routes: it means the own gateway.

The SDK takes such a call for one within LangGraph's own server and looks for that in its process. What it would call
there is put in the place of its transport: in a gateway the gateway itself, in a worker the one that has been named.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any, Final

import httpx

from runstream.settings import GATEWAY_URL_VARIABLE

_DEFER_VARIABLE: Final = "__LANGGRAPH_DEFER_LOOPBACK_TRANSPORT"
"""Keeps the SDK from importing LangGraph's server where that happens to be installed."""
_RETRIES: Final = 5


class Loopback(httpx.AsyncBaseTransport):
    """The transport of a client that was given no URL.

    Args:
        target: gives what to call; it is asked at the first request, since clients are often made while a module is
            imported.
    """

    def __init__(self, target: Callable[[], httpx.AsyncBaseTransport]) -> None:
        self._target = target
        self._transport: httpx.AsyncBaseTransport | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Pass a request on."""
        if self._transport is None:
            self._transport = self._target()
        return await self._transport.handle_async_request(request)

    async def aclose(self) -> None:
        """Close what was opened."""
        if self._transport is not None:
            await self._transport.aclose()


class ToGateway(httpx.AsyncBaseTransport):
    """Sends requests to a gateway elsewhere.

    Args:
        url: the gateway's, with the path under which it is mounted, if any.
    """

    def __init__(self, url: str) -> None:
        self._url = httpx.URL(url)
        self._transport = httpx.AsyncHTTPTransport(retries=_RETRIES)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request to the same path there."""
        path = self._url.raw_path.rstrip(b"/") + request.url.raw_path
        request.url = self._url.copy_with(raw_path=path)
        request.headers["host"] = request.url.netloc.decode("ascii")
        return await self._transport.handle_async_request(request)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._transport.aclose()


def install(target: Callable[[], httpx.AsyncBaseTransport], *, replace: bool = True) -> None:
    """Have the SDK's clients without a URL call what `target` gives, in the whole process.

    Args:
        target: gives a transport of a client's own; what it raises the client's caller gets.
        replace: whether this takes the place of an earlier target.
    """
    sdk_client: Any = importlib.import_module("langgraph_sdk._async.client")
    if not replace and isinstance(sdk_client.get_asgi_transport, _Transports):
        return
    os.environ[_DEFER_VARIABLE] = "true"
    sdk_client.get_asgi_transport = _Transports(target)


class _Transports:
    """Stands in for the SDK's function that gives the class of its transport."""

    def __init__(self, target: Callable[[], httpx.AsyncBaseTransport]) -> None:
        self._target = target

    def __call__(self) -> Callable[..., Loopback]:
        return lambda *_args, **_options: Loopback(self._target)


def to_gateway_of_environment() -> ToGateway:
    """Return a transport to the gateway that the environment names.

    Raises:
        RuntimeError: it names none.
    """
    url = os.environ.get(GATEWAY_URL_VARIABLE, "").strip()
    if not url:
        raise RuntimeError(
            "get_client() without a URL: this worker does not know its gateway; "
            f"set {GATEWAY_URL_VARIABLE}, such as http://gateway:2024, or call get_client(url=...)"
        )
    if not url.startswith(("http://", "https://")):
        raise RuntimeError(f"{GATEWAY_URL_VARIABLE}: {url!r} must begin with http:// or https://")
    return ToGateway(url)
