"""Settings: values with defaults. Nothing here reads the environment."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, field

from runstream.errors import InvalidRequest
from runstream.settings import DEFAULT_REDIS_URL, check_number
from runstream_gateway.webhooks.addresses import read_allowed

DEFAULT_THREAD_TTL = 30 * 24 * 3600.0
_NEVER_TOLD = frozenset((
    "authorization", "cookie", "proxy-authorization", "x-api-key", "x-service-key", "x-tenant-id",
))  # fmt: skip
"""What a graph is told stands in the run's record, in checkpoints and in messages: no place for what opens doors."""


@dataclass(frozen=True)
class Cors:
    """Which pages of other origins may call; by default all may, as on LangGraph's own server."""

    allow_origins: tuple[str, ...] = ("*",)
    allow_methods: tuple[str, ...] = ("*",)
    allow_headers: tuple[str, ...] = ("*",)
    allow_credentials: bool = False
    allow_origin_regex: str | None = None
    expose_headers: tuple[str, ...] = ()
    max_age: int = 600


@dataclass(frozen=True)
class HeaderRules:
    """Which request headers graphs are told, by patterns such as `x-team-*`; none by default.

    LangGraph shows what is configurable in the metadata of every message, so this is to be chosen, not to be guessed.
    Headers by which callers show who they are are never told, whatever the patterns say.

    Attributes:
        includes: those that match one of these,
        excludes: and none of these.
    """

    includes: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()

    def admits(self, name: str) -> bool:
        """Whether graphs are told a header."""
        if name.lower() in _NEVER_TOLD:
            return False
        return _matches(name, self.includes) and not _matches(name, self.excludes)

    def admitted(self, headers: Mapping[str, str]) -> dict[str, str]:
        """Return the headers that graphs are passed."""
        return {name: value for name, value in headers.items() if self.admits(name)}


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


@dataclass(frozen=True)
class GatewaySettings:
    """How a gateway behaves. Times are in seconds, sizes in bytes.

    Attributes:
        redis_url: of the Redis that the runs are in.
        namespace: of the runs.
        checkpointer_url: as the workers have it; None for `redis`.
        keep_checkpointer: as the workers have it.
        checkpoint_patience: how long a request waits for a checkpoints' database that is away, until it is 503.
        checkpoint_classes: as the workers have them, `module:Class` each.
        heartbeat: how often a stream in which nothing happens sends a comment; 10 at most.
        vanished_after: how long a client may leave unanswered what it is sent, until it is taken for gone. One that is
            there and reads slowly, or not at all, is not meant: its system answers.
        thread_ttl: how long a thread is kept after it was last used.
        stateless_retention: how long the stream of a stateless run can be read after its end.
        max_body_bytes: a request with a larger body is refused.
        max_body_values: a request whose JSON has more values is refused; an object or a list counts twice.
        head_timeout: how long a request's first line and headers may take to arrive.
        body_timeout: how long a request's body may take to arrive.
        show_errors: tell the messages of all exceptions, also of those that may hold what is nobody's business.
        api_keys: whether callers need one of the keys that `runstream keys` makes.
        token_secret: by which read tokens are signed, the same for all gateways; one kept in Redis when left out.
        headers: which request headers graphs are told.
        webhooks: whether runs may have any.
        webhook_allow: hosts, addresses and networks that webhooks may go to although they are not public.
        webhook_secret: by which webhooks are signed, the same for all gateways; None leaves them unsigned.
        webhook_tries: how often a webhook is tried before it is given up.
        webhook_first_wait: between the first two tries; each later wait is two and a half times as long.
        webhook_timeout: how long a try may take.
        cors: who may call from a browser.
        limits: what callers may do and keep who have no limit of their own for it, by the names of API keys' limits;
            None is no limit.
    """

    redis_url: str = field(default=DEFAULT_REDIS_URL, repr=False)
    namespace: str = "runstream"
    checkpointer_url: str | None = field(default=None, repr=False)
    keep_checkpointer: bool | None = None
    checkpoint_patience: float = 10.0
    checkpoint_classes: tuple[str, ...] = ()
    heartbeat: float = 5.0
    vanished_after: float = 30.0
    thread_ttl: float = DEFAULT_THREAD_TTL
    stateless_retention: float = 120.0
    max_body_bytes: int = 10 * 1024 * 1024
    max_body_values: int = 50_000
    head_timeout: float = 10.0
    body_timeout: float = 30.0
    show_errors: bool = False
    api_keys: bool = False
    token_secret: str | None = field(default=None, repr=False)
    headers: HeaderRules = field(default_factory=HeaderRules)
    webhooks: bool = True
    webhook_allow: tuple[str, ...] = ()
    webhook_secret: str | None = field(default=None, repr=False)
    webhook_tries: int = 8
    webhook_first_wait: float = 5.0
    webhook_timeout: float = 10.0
    cors: Cors = field(default_factory=Cors)
    limits: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def keeps_own(self) -> bool:
        """Whether graphs keep the checkpointer that they were compiled with."""
        return self.checkpointer_url is None if self.keep_checkpointer is None else self.keep_checkpointer

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            InvalidRequest: a value is out of its range.
        """
        check_number("heartbeat", self.heartbeat, least=0.01, most=10)
        check_number("vanished_after", self.vanished_after, least=0.1)
        times = (
            "checkpoint_patience",
            "thread_ttl",
            "stateless_retention",
            "head_timeout",
            "body_timeout",
            "webhook_first_wait",
            "webhook_timeout",
        )
        for name in times:
            check_number(name, getattr(self, name), least=0.001)
        for name in ("max_body_bytes", "max_body_values"):
            check_number(name, getattr(self, name), least=1, whole=True)
        for allowed in self.webhook_allow:
            try:
                read_allowed(allowed)
            except ValueError as error:
                raise InvalidRequest("webhook_allow", str(error)) from None
        check_number("webhook_tries", self.webhook_tries, least=1, whole=True)
