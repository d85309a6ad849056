"""One try to deliver: a POST to the very address that was checked, and what its answer means."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

import httpcore
import httpx

from runstream import __version__
from runstream_gateway.webhooks.addresses import Addresses, WebhookBusy, WebhookRefused, WebhookUnresolved, read_url
from runstream_gateway.webhooks.signature import DELIVERY, SIGNATURE, sign

_AGAIN = frozenset((408, 425, 429))


class Answer(NamedTuple):
    """What a try came to.

    Attributes:
        done: it was taken.
        again: whether another try may be.
        told: what came of it, to be logged.
        after: seconds before which the receiver does not want another try.
        counts: whether it was a try at all: the gateway may have had no room for it.
    """

    done: bool
    again: bool
    told: str
    after: float = 0.0
    counts: bool = True


class Route(NamedTuple):
    """Where a try goes.

    Attributes:
        url: of the webhook.
        host: of the receiver.
        addresses: those of its host, which were found to be allowed.
    """

    url: httpx.URL
    host: str
    addresses: Sequence[str]


class Sender:
    """Sends; an async context manager.

    A try has a connection of its own, to the addresses of its route, so that a name cannot stand for another one a
    moment later. It ends within the timeout, whatever the receiver sends and however slowly. Of an answer only the head
    is read, which httpcore refuses when it is longer than 100 KiB.

    Args:
        addresses: whom it calls.
        secret: by which it signs; None leaves what is sent unsigned.
        timeout: how long a try may take, in seconds.
    """

    def __init__(self, addresses: Addresses, secret: str | None, *, timeout: float) -> None:
        self._addresses = addresses
        self._secret = secret
        self._timeout = timeout
        self._tls: ssl.SSLContext | None = None

    async def __aenter__(self) -> Self:
        # Once: it reads all certificate authorities, which takes a while.
        self._tls = httpx.create_ssl_context()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Do nothing: a connection ends with its try."""

    async def route(self, url: str, owner: str = "") -> Route | Answer:
        """Find where a URL leads now; an answer if it leads nowhere.

        Args:
            url: of the webhook.
            owner: whose share of the lookups it counts for.
        """
        try:
            parts = read_url(url)
            host = parts.raw_host.decode("ascii")
            return Route(parts, host, await self._addresses.of(host, owner=owner, waits=True))
        except WebhookRefused as refused:
            return Answer(done=False, again=False, told=str(refused))
        except WebhookBusy as busy:
            return Answer(done=False, again=True, told=str(busy), counts=False)
        except WebhookUnresolved as unresolved:
            return Answer(done=False, again=True, told=str(unresolved))

    async def send(self, delivery_id: str, url: str, body: bytes) -> Answer:
        """POST a body to where a URL leads now."""
        route = await self.route(url)
        return route if isinstance(route, Answer) else await self.post(delivery_id, route, body)

    async def post(self, delivery_id: str, route: Route, body: bytes) -> Answer:
        """POST a body. A redirect is not followed: it would lead where nobody has looked."""
        try:
            async with asyncio.timeout(self._timeout):
                return await self._post(delivery_id, route, body)
        except TimeoutError:
            return Answer(done=False, again=True, told=f"no answer within {self._timeout:g} s")
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, OSError) as error:
            return Answer(done=False, again=True, told=f"{type(error).__name__}: {error}"[:500])

    async def _post(self, delivery_id: str, route: Route, body: bytes) -> Answer:
        url = route.url
        target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        headers = {**self._headers(delivery_id, body), "host": url.netloc}
        pool = httpcore.AsyncConnectionPool(
            ssl_context=self._tls,
            max_connections=1,
            max_keepalive_connections=0,
            network_backend=_Pinned(route.addresses),
        )
        async with pool, pool.stream("POST", target, headers=headers, content=body) as response:
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


class _Pinned(httpcore.AsyncNetworkBackend):
    """Connects to given addresses, whatever the name of the host stands for by now.

    Args:
        addresses: those that were checked.
    """

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = addresses
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,  # noqa: ARG002 - as it is called
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first address that takes a connection.

        Raises:
            httpcore.ConnectError: none of them can be reached.
        """
        failure: Exception = httpcore.ConnectError("it has no address")
        for address in self._addresses:
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
            httpcore.ConnectError: always.
        """
        raise httpcore.ConnectError(f"{path!r} is no host")

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)
