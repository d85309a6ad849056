"""One try to deliver: a POST to the very address that was checked, and what its answer means."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Any, NamedTuple, Self

import httpcore

from runstream import __version__
from runstream_gateway.webhooks.addresses import Addresses, WebhookRefused, WebhookUnresolved, read_url
from runstream_gateway.webhooks.signature import DELIVERY, SIGNATURE, sign

_AGAIN = frozenset((408, 425, 429))


class Answer(NamedTuple):
    """What a try came to.

    Attributes:
        done: it was taken.
        again: whether another try may be.
        told: what came of it, to be logged.
        after: seconds before which the receiver does not want another try.
    """

    done: bool
    again: bool
    told: str
    after: float = 0.0


class Sender:
    """Sends; an async context manager.

    Args:
        addresses: whom it calls.
        secret: by which it signs; None leaves what is sent unsigned.
        timeout: how long a try may take, in seconds.
        at_once: how many tries go on at a time.
    """

    def __init__(self, addresses: Addresses, secret: str | None, *, timeout: float, at_once: int) -> None:
        self._secret = secret
        self._timeout = timeout
        # No connection is kept: each is made to what the host's name stands for, and is allowed, at that time.
        self._pool = httpcore.AsyncConnectionPool(
            max_connections=at_once, max_keepalive_connections=0, network_backend=_Checked(addresses)
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._pool.aclose()

    async def send(self, delivery_id: str, url: str, body: bytes) -> Answer:
        """POST a body. A redirect is not followed: it would lead where nobody has looked."""
        try:
            async with asyncio.timeout(self._timeout):
                return await self._post(delivery_id, url, body)
        except WebhookRefused as refused:
            return Answer(done=False, again=False, told=str(refused))
        except WebhookUnresolved as unresolved:
            return Answer(done=False, again=True, told=str(unresolved))
        except TimeoutError:
            return Answer(done=False, again=True, told=f"no answer within {self._timeout:g} s")
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, OSError) as error:
            return Answer(done=False, again=True, told=f"{type(error).__name__}: {error}"[:500])

    async def _post(self, delivery_id: str, url: str, body: bytes) -> Answer:
        parts = read_url(url)
        target = httpcore.URL(scheme=parts.raw_scheme, host=parts.raw_host, port=parts.port, target=parts.raw_path)
        headers = {**self._headers(delivery_id, body), "host": parts.netloc}
        async with self._pool.stream("POST", target, headers=headers, content=body) as response:
            return _meaning(response.status, dict(response.headers))

    def _headers(self, delivery_id: str, body: bytes) -> dict[bytes | str, bytes | str]:
        headers: dict[bytes | str, bytes | str] = {
            "content-type": "application/json",
            "content-length": str(len(body)),
            "user-agent": f"runstream/{__version__}",
            "accept": "*/*",
            DELIVERY: delivery_id,
        }
        if self._secret is not None:
            headers[SIGNATURE] = sign(self._secret, int(time.time()), body)
        return headers


def _meaning(status: int, headers: dict[bytes, bytes]) -> Answer:
    told = f"HTTP {status}"
    if 200 <= status < 300:
        return Answer(done=True, again=False, told=told)
    if status < 500 and status not in _AGAIN:
        return Answer(done=False, again=False, told=told)
    wish = next((value for name, value in headers.items() if name.lower() == b"retry-after"), b"")
    return Answer(done=False, again=True, told=told, after=float(wish) if wish.isdigit() and len(wish) < 7 else 0.0)


class _Checked(httpcore.AsyncNetworkBackend):
    """Connects to the addresses that were checked, so that a name cannot stand for another one a moment later.

    Args:
        addresses: checks them.
    """

    def __init__(self, addresses: Addresses) -> None:
        self._addresses = addresses
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect.

        Raises:
            WebhookRefused: it is not to be called.
            WebhookUnresolved: it has no address.
            httpcore.ConnectError: none of its addresses can be reached.
        """
        failure: Exception = httpcore.ConnectError("it has no address")
        for address in await self._addresses.of(host):
            try:
                return await self._network.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ARG002 - as it is called
        socket_options: Iterable[Any] | None = None,  # noqa: ARG002 - as it is called
    ) -> httpcore.AsyncNetworkStream:
        """Refuse: nothing is sent there.

        Raises:
            WebhookRefused: always.
        """
        raise WebhookRefused(f"{path!r} is no host")

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)
