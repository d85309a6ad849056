"""The Redis of `runstream dev` and `runstream demo`: the one that was named, else an embedded one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from runstream.cli.terminal import Output
from runstream.embedded import EmbeddedKind, EmbeddedRedis
from runstream.redaction import redact_url


@dataclass(frozen=True)
class SessionRedis:
    """The Redis of a session.

    Attributes:
        url: where it is, with its password.
        about: what people are told of it, without the password.
        embedded: what it is if the session has started it; None if it was named.
    """

    url: str = field(repr=False)
    about: str
    embedded: EmbeddedKind | None = None

    @property
    def shown_url(self) -> str:
        """The password of the throw-away Redis is there to be copied; any other is nobody's business."""
        return self.url if self.embedded else redact_url(self.url)


@contextmanager
def session_redis(named: str, output: Output, data: Path | None = None) -> Iterator[SessionRedis]:
    """The Redis that was named, else an embedded one until the end of the block, which keeps what it has in `data`.

    That something only stands in for Redis is said in any case: on standard error, where the output is for programs.
    """
    with nullcontext() if named else EmbeddedRedis(data=data) as embedded:
        if embedded is None:
            yield SessionRedis(named, redact_url(named))
            return
        if embedded.kind == "fakeredis" and not output.pretty:
            output.note(embedded.describe())
        yield SessionRedis(embedded.url, embedded.describe(), embedded.kind)
