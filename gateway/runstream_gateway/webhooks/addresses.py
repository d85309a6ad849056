"""Whom the gateway calls.

Whoever may create runs chooses the URL of a webhook, and the gateway stands where that caller may not reach: beside
databases, metadata services, other tenants. So it calls public addresses only, and what its operator allows.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TypeAlias

import httpx

from runstream_gateway.webhooks.resolving import Resolver, ResolverBusy

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolve: TypeAlias = Callable[[str], Awaitable[Sequence[str]]]
"""Gives the addresses of a host. It may raise OSError, and ResolverBusy."""

_SCHEMES = ("http", "https")
_LONGEST = 4096
_RESOLVED_WITHIN = 5.0
# Networks through which IPv6 reaches the IPv4 address that stands in the last 32 bits (RFC 6052).
_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")
# What Python's own lists leave out, in some of its versions at least.
_SPECIAL = tuple(
    map(ipaddress.ip_network, ("192.0.0.0/24", "192.88.99.0/24", "64:ff9b:1::/48", "3fff::/20", "5f00::/16"))
)


class WebhookRefused(Exception):
    """The gateway does not call this URL."""


class WebhookUnresolved(Exception):
    """The host of a URL has no address just now."""


class WebhookBusy(WebhookUnresolved):
    """So many names are being looked up that this one was not."""


class Addresses:
    """Says which addresses are called.

    Args:
        allow: hostnames, addresses and networks (CIDR) that are called although they are not public.
        resolve: finds the addresses of a host.

    Raises:
        ValueError: one of `allow` is none of these.
    """

    def __init__(self, allow: Sequence[str] = (), *, resolve: Resolve | None = None) -> None:
        allowed = [read_allowed(one) for one in allow]
        self._hosts = frozenset(one for one in allowed if isinstance(one, str))
        self._networks = tuple(one for one in allowed if not isinstance(one, str))
        self._resolve = resolve
        self._resolver = Resolver()

    async def check(self, url: str, checked: set[str] | None = None, *, owner: str = "") -> None:
        """Look whether a URL would be called now.

        Args:
            url: it.
            checked: hosts that were found right a moment ago, to which this one is added.
            owner: whose share of the lookups it counts for.

        Raises:
            WebhookRefused: it would not.
            WebhookUnresolved: its host has no address.
            WebhookBusy: too many other names are being looked up.
        """
        host = read_url(url).raw_host.decode("ascii")
        if checked is not None and host in checked:
            return
        await self.of(host, owner=owner)
        if checked is not None:
            checked.add(host)

    async def of(self, host: str, *, owner: str = "", waits: bool = False) -> list[str]:
        """The addresses by which a host is called.

        Args:
            host: it.
            owner: whose share of the lookups it counts for.
            waits: wait some seconds for a place where too many other names are being looked up.

        Raises:
            WebhookRefused: one of them is not public, and neither it nor the host is allowed.
            WebhookUnresolved: it has none.
            WebhookBusy: too many other names are being looked up.
        """
        try:
            found = [host] if _is_address(host) else await self._look_up(host, owner, waits=waits)
        except ResolverBusy:
            raise WebhookBusy(f"too many names are being looked up; the host {host!r} was not") from None
        except (OSError, UnicodeError, TimeoutError) as error:
            raise WebhookUnresolved(f"the host {host!r} cannot be resolved") from error
        if not found:
            raise WebhookUnresolved(f"the host {host!r} has no address")
        if _plain(host) not in self._hosts:
            for address in map(ipaddress.ip_address, found):
                self._check(address, host)
        return list(found)

    async def _look_up(self, host: str, owner: str, *, waits: bool) -> Sequence[str]:
        if self._resolve is not None:
            async with asyncio.timeout(_RESOLVED_WITHIN):
                return await self._resolve(host)
        return await self._resolver(host, owner, within=_RESOLVED_WITHIN, waits=waits)

    def _check(self, address: Address, host: str) -> None:
        if self._is_allowed(address):
            return
        if not all(_is_public(meant) or self._is_allowed(meant) for meant in _meant_by(address)):
            # Which address it is may be nobody's business: a name that only this network knows.
            raise WebhookRefused(f"the host {host!r} is not a public one, and is not allowed (--webhook-allow)")

    def _is_allowed(self, address: Address) -> bool:
        return any(address in network for network in self._networks)


def read_url(url: str) -> httpx.URL:
    """A webhook's URL in its parts.

    Raises:
        WebhookRefused: it is no such URL.
    """
    try:
        parts = httpx.URL(url)
        host = parts.host
    except (httpx.InvalidURL, UnicodeError, ValueError):
        raise WebhookRefused("it is no URL") from None
    if len(url) > _LONGEST:
        raise WebhookRefused(f"the URL is longer than {_LONGEST} characters")
    if parts.scheme not in _SCHEMES:
        raise WebhookRefused("the URL must begin with http:// or https://")
    if not host:
        raise WebhookRefused("the URL has no host")
    if parts.userinfo:
        raise WebhookRefused("the URL must not contain a user or a password")
    if parts.port is not None and not 0 < parts.port < 65536:
        raise WebhookRefused(f"{parts.port} is no port")
    return parts


def shown_url(url: str) -> str:
    """A URL as it may be logged: its path and its query may be what only its receiver knows."""
    parts = httpx.URL(url)
    return f"{parts.scheme}://{parts.netloc.decode('ascii')}/..."


def read_allowed(text: str) -> str | Network:
    """A hostname, or the network that an address or a CIDR stands for.

    Raises:
        ValueError: it is neither.
    """
    try:
        return ipaddress.ip_network(text.strip("[]"))
    except ValueError:
        name = _plain(text)
        if not name or any(not (letter.isalnum() or letter in "-._") for letter in name) or _is_number(name):
            raise ValueError(f"{text!r} must be a hostname, an address, or a network such as 10.0.0.0/8") from None
        return name


def _is_number(name: str) -> bool:
    """Whether a name is a spelling of an address by numbers, or a wrong one; names of hosts end otherwise."""
    last = name.rpartition(".")[2]
    return last.isdecimal() or last.startswith("0x")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _plain(host: str) -> str:
    return host.lower().rstrip(".")


def _meant_by(address: Address) -> Iterator[Address]:
    """An address, and those that packets to it may reach in the end."""
    if isinstance(address, ipaddress.IPv4Address):
        yield address
        return
    embedded = address.ipv4_mapped or address.sixtofour
    if embedded is None and address in _TRANSLATED:
        embedded = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if embedded is not None:
        yield embedded
    # What is mapped, or translated, is IPv4 and nothing else.
    if address.ipv4_mapped is None and address not in _TRANSLATED:
        yield address


def _is_public(address: Address) -> bool:
    return (
        address.is_global
        and not address.is_private
        and not address.is_multicast
        and not address.is_reserved
        and not address.is_loopback
        and not address.is_link_local
        and not address.is_unspecified
        and not (isinstance(address, ipaddress.IPv6Address) and (address.is_site_local or address.teredo is not None))
        and not any(address in network for network in _SPECIAL)
    )
