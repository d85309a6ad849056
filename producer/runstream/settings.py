"""Settings: values with defaults. The environment is read here, by functions that entry points call."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from runstream.errors import InvalidRequest

_MOST = 1e9
DEFAULT_REDIS_URL = "redis://localhost:6379/0"
REDIS_URL_VARIABLE = "RUNSTREAM_REDIS_URL"
NAMESPACE_VARIABLE = "RUNSTREAM_NAMESPACE"
GATEWAY_URL_VARIABLE = "RUNSTREAM_GATEWAY_URL"


@dataclass(frozen=True)
class ClientSettings:
    """How a client behaves. Times are in seconds, sizes in bytes.

    Attributes:
        namespace: keeps several deployments apart in one Redis.
        retention: how long an ended run's record and stream are kept.
        queued_ttl: how long after it is due a run waits for a worker before it is forgotten.
        max_request_bytes: a request (input, config, context and so on, as JSON) over this size is refused.
        read_buffer: how many events wait for a slow reader before it goes back to reading the stream by itself.
        read_buffer_bytes: how many bytes of them; an event that is larger waits alone.
        call_timeout: how long a call goes on trying while Redis is away, before it raises.
        reconnect_timeout: how long a reader waits for a Redis that is away before it gives up.
        probe_interval: how often readers make sure that what they wait for still exists; 10 at most.
        connections: how many connections the client's calls share; all tails together use one more.
    """

    namespace: str = "runstream"
    retention: float = 24 * 3600.0
    queued_ttl: float = 7 * 24 * 3600.0
    max_request_bytes: int = 1024 * 1024
    read_buffer: int = 1000
    read_buffer_bytes: int = 512 * 1024
    call_timeout: float = 5.0
    reconnect_timeout: float = 60.0
    probe_interval: float = 5.0
    connections: int = 2

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            InvalidRequest: a value is out of its range.
        """
        for name in ("retention", "queued_ttl", "call_timeout", "reconnect_timeout", "probe_interval"):
            check_number(name, getattr(self, name), least=0.001)
        check_number("probe_interval", self.probe_interval, least=0.001, most=10)
        for name in ("max_request_bytes", "read_buffer", "read_buffer_bytes", "connections"):
            check_number(name, getattr(self, name), least=1, whole=True)


def check_number(name: str, value: object, *, least: float, most: float = _MOST, whole: bool = False) -> None:
    """Check a setting.

    Raises:
        InvalidRequest: it is no number, or out of its range.
    """
    kinds = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value <= most:
        kind = "a whole number" if whole else "a number"
        range_ = f"of {least:g} or more" if most == _MOST else f"from {least:g} to {most:g}"
        raise InvalidRequest(name, f"{value!r} must be {kind} {range_}")


def redis_url_from_environment(environment: Mapping[str, str] | None = None) -> str:
    """The URL of Redis: `RUNSTREAM_REDIS_URL`, else the local default."""
    return (os.environ if environment is None else environment).get(REDIS_URL_VARIABLE) or DEFAULT_REDIS_URL


def namespace_from_environment(environment: Mapping[str, str] | None = None) -> str:
    """The namespace: `RUNSTREAM_NAMESPACE`, else `runstream`."""
    return (os.environ if environment is None else environment).get(NAMESPACE_VARIABLE) or "runstream"
