"""Sentinels: asking them which server is the master of a service."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from redis.asyncio import Connection, SSLConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

SENTINEL_SCHEMES = ("sentinel", "sentinels")
SENTINEL_OPTIONS = frozenset(("sentinel_username", "sentinel_password"))
_PORT = 26379
_ANSWER_WITHIN = 1.0
"""A Sentinel that takes longer is passed over for the next one, in seconds."""
_ADDRESS = re.compile(r"(\[[^\]]+\]|[^:\[\]]+)(?::(\d+))?")


@dataclass(frozen=True)
class SentinelPlace:
    """A URL of Sentinels, taken apart.

    Attributes:
        addresses: of the Sentinels: host and port.
        service: the name under which they watch the master.
        with_tls: whether they, and the servers, are spoken to with TLS.
        server_url: what is left of the URL for the servers: user, password, database, options; the host means nothing.
        username: for the Sentinels; None where they ask for none.
        password: the same.
    """

    addresses: tuple[tuple[str, int], ...]
    service: str
    with_tls: bool
    server_url: str = field(repr=False)
    username: str | None = None
    password: str | None = field(default=None, repr=False)


def read_sentinel_url(url: str) -> SentinelPlace:
    """Take apart `sentinel://[USER:PASSWORD@]HOST[:PORT],HOST[:PORT]/SERVICE[?OPTIONS]`; user and password are Redis'.

    Raises:
        ValueError: it is no such URL.
    """
    parts = urlsplit(url)
    user, at, hosts = parts.netloc.rpartition("@")
    service = unquote(parts.path.removeprefix("/"))
    if not service or "/" in service:
        raise ValueError("it must name the service that the Sentinels watch: sentinel://HOST:PORT,HOST:PORT/SERVICE")
    options = dict(parse_qsl(parts.query))
    rest = {name: value for name, value in options.items() if name not in SENTINEL_OPTIONS}
    with_tls = parts.scheme == "sentinels"
    return SentinelPlace(
        addresses=tuple(map(_address, hosts.split(","))),
        service=service,
        with_tls=with_tls,
        server_url=f"{'rediss' if with_tls else 'redis'}://{user}{at}master?{urlencode(rest)}",
        username=options.get("sentinel_username"),
        password=options.get("sentinel_password"),
    )


def _address(text: str) -> tuple[str, int]:
    found = _ADDRESS.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no address of a Sentinel; write HOST or HOST:PORT")
    host, port = found.groups()
    return host.strip("[]"), int(port or _PORT)


class Sentinels:
    """The Sentinels of one service.

    Args:
        place: where they are.
        options: of connections; time limits are shortened.
    """

    def __init__(self, place: SentinelPlace, options: Mapping[str, Any]) -> None:
        self.service = place.service
        self._addresses = list(place.addresses)
        self._kind = SSLConnection if place.with_tls else Connection
        limits = {"socket_connect_timeout": _ANSWER_WITHIN, "socket_timeout": _ANSWER_WITHIN}
        self._options = {**options, **limits, "username": place.username, "password": place.password}

    async def master(self) -> tuple[str, int]:
        """The host and port of the master, as the first Sentinel that answers tells them.

        Raises:
            redis.exceptions.ConnectionError: none of them can be reached, or knows one.
        """
        told = []
        for address in list(self._addresses):
            try:
                found = await self._ask(*address)
            except (RedisError, OSError) as error:
                told.append(f"{address[0]}:{address[1]}: {error}")
                continue
            if found is not None:
                # Whoever has answered is asked first from now on.
                self._addresses.remove(address)
                self._addresses.insert(0, address)
                return found
            told.append(f"{address[0]}:{address[1]}: knows no service {self.service!r}")
        raise RedisConnectionError(f"no Sentinel names a master of {self.service!r} ({'; '.join(told)})")

    async def _ask(self, host: str, port: int) -> tuple[str, int] | None:
        connection: Any = self._kind(host=host, port=port, **self._options)
        try:
            await connection.connect()
            await connection.send_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service)
            found: Any = await connection.read_response(disable_decoding=True)
        finally:
            await connection.disconnect(nowait=True)
        return None if found is None else (found[0].decode(), int(found[1]))
