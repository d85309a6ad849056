"""API keys of a service in front of runstream, such as the gateway.

A key is 256 random bits behind `rs_`. Redis has its SHA-256, and nothing from which the key could be told: a random key
needs no slow hash. A key is found by the beginning of its hash, which is its id, so nothing secret is compared byte by
byte where the time could be measured.

A key without a date lapses when it has not been used for 400 days; each use renews it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from runstream.client import Client
from runstream.documents import Document
from runstream.errors import InvalidRequest
from runstream.settings import check_number

KEY_PREFIX = "rs_"
STORAGE_LIMIT_NAMES = ("stored_bytes", "thread_bytes", "threads", "assistants", "kept_runs", "webhooks")
LIMIT_NAMES = ("request_bytes", "streams", "runs", "rate", "burst", *STORAGE_LIMIT_NAMES)

_KIND = "api_key"
_UNUSED_FOR = 400 * 24 * 3600.0
_MOST_DAYS = 400
_KEY = re.compile(r"rs_[A-Za-z0-9_-]{43}")
_ID_LENGTH = 24
_NAME = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,200}")


@dataclass(frozen=True)
class ApiKey:
    """What is known of a key.

    Attributes:
        id: by which it is revoked; it is no secret.
        name: what it was called when it was made.
        owner: whose things it may see.
        created_at: when it was made.
        expires_at: when it ends; None if it is for as long as it is used.
        limits: what it may do that differs from what keys may by default, by the names in `LIMIT_NAMES`; None is no
            limit.
    """

    id: str
    name: str
    owner: str
    created_at: datetime
    expires_at: datetime | None
    limits: Mapping[str, float | None]


class ApiKeys:
    """The API keys of a namespace.

    Args:
        client: of the Redis and the namespace.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._lasting = client.documents(_KIND, ttl=_UNUSED_FOR)

    async def create(
        self,
        name: str,
        *,
        owner: str | None = None,
        days: float | None = None,
        limits: Mapping[str, float | None] | None = None,
    ) -> tuple[str, ApiKey]:
        """Make a key. It is told now and never again.

        Args:
            name: what it is for.
            owner: whose things it may see; its name when left out, so that keys of one name share what is theirs.
            days: after which it ends; for as long as it is used when left out.
            limits: see `ApiKey`.

        Raises:
            InvalidRequest: one of these is not as it has to be.
        """
        owner = name if owner is None else owner
        for field, text in (("name", name), ("owner", owner)):
            if not _NAME.fullmatch(text):
                raise InvalidRequest(field, f"{text!r} must be 1 to 200 characters, none of them a control character")
        if days is not None:
            check_number("days", days, least=0.0001, most=_MOST_DAYS)
        said = check_limits(limits or {})
        key = KEY_PREFIX + secrets.token_urlsafe(32)
        hashed, now = _hash(key), time.time()
        expires = None if days is None else now + days * 86400
        data = {"hash": hashed, "name": name, "owner": owner, "created": now, "expires": expires, "limits": said}
        documents = self._lasting if expires is None else self._client.documents(_KIND, ttl=expires - now)
        document = await documents.create(hashed[:_ID_LENGTH], data)
        if document is None:
            raise InvalidRequest("key", "a new random key is one that there is already; the random numbers are none")
        return key, _read(document)

    async def find(self, key: str) -> ApiKey | None:
        """The key that somebody has shown; None if it is none, has been revoked, or is over."""
        if not _KEY.fullmatch(key):
            return None
        hashed = _hash(key)
        document = await self._get(hashed[:_ID_LENGTH])
        if document is None or not hmac.compare_digest(hashed, str(document.data["hash"])):
            return None
        found = _read(document)
        if found.expires_at is None:
            await self._lasting.touch(found.id)
        return found

    async def is_missing(self, key: str) -> str | None:
        """Return the id of a key that was made and not revoked, and whose record is gone; None for any other.

        It has lapsed, or Redis has lost it: a key that nobody has made looks otherwise.
        """
        if not _KEY.fullmatch(key):
            return None
        key_id = _hash(key)[:_ID_LENGTH]
        is_gone = await self._lasting.get(key_id) is None and await self._lasting.is_indexed(key_id)
        return key_id if is_gone else None

    async def count_made(self) -> int:
        """Return how many keys were made and not revoked, those whose record is gone included."""
        return await self._lasting.count_indexed()

    async def get(self, key_id: str) -> ApiKey | None:
        """The key of this id; None where there is none any more."""
        document = await self._get(key_id)
        return None if document is None else _read(document)

    async def all(self) -> list[ApiKey]:
        """All keys that there are, the newest first."""
        return [_read(document) async for document in self._lasting.newest_first() if not _is_over(document)]

    async def revoke(self, key_id: str) -> bool:
        """End a key; tell whether there was one of this id. Who has looked it up before may go by that for seconds."""
        return await self._lasting.delete(key_id)

    async def _get(self, key_id: str) -> Document | None:
        document = await self._lasting.get(key_id)
        return None if document is None or _is_over(document) else document


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _is_over(document: Document) -> bool:
    expires = document.data["expires"]
    return expires is not None and float(expires) <= time.time()


def _read(document: Document) -> ApiKey:
    data: Mapping[str, Any] = document.data
    expires = data["expires"]
    return ApiKey(
        id=document.id,
        name=data["name"],
        owner=data["owner"],
        created_at=datetime.fromtimestamp(data["created"], UTC),
        expires_at=None if expires is None else datetime.fromtimestamp(expires, UTC),
        limits=data["limits"],
    )


def check_limits(limits: Mapping[str, float | None]) -> dict[str, float | None]:
    """Return limits by the names in `LIMIT_NAMES`.

    Raises:
        InvalidRequest: a name is none of these, or a number is out of its range.
    """
    for name, value in limits.items():
        if name not in LIMIT_NAMES:
            raise InvalidRequest("limits", f"{name!r} is no limit; they are {', '.join(LIMIT_NAMES)}")
        if value is not None:
            whole = name != "rate"
            check_number(f"limits.{name}", value, least=1 if name in ("burst", "request_bytes") else 0, whole=whole)
    if limits.get("rate") == 0:
        raise InvalidRequest("limits.rate", "0 would let nothing through; revoke the key")
    return dict(limits)
