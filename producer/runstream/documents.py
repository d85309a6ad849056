"""JSON documents beside the runs: what a service in front of runstream keeps of its threads and assistants.

A document has a kind, an id, a version that counts its writes, and a time to live that each write renews. Whoever
writes says which version it has read, so that no change of another writer is lost.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any, NamedTuple

from pydantic_core import from_json

from runstream.errors import InvalidRequest
from runstream.index_pages import NewestFirst
from runstream.keys import Keys
from runstream.missing import Call
from runstream.scripts import Scripts

_PAGE = 100
_PART = 20
_PART_BYTES = 4_000_000


class Document(NamedTuple):
    """A document as it was read: `version` is 1 after its first write."""

    id: str
    version: int
    data: dict[str, Any]


class Documents:
    """The documents of one kind.

    Args:
        redis: a client with `decode_responses=False`.
        keys: the cell's keys.
        scripts: the cell's scripts.
        call: makes a call to Redis, with such patience as its owner has.
        kind: what the documents are, a word.
        ttl: how long a document is kept after it was last written or touched, in seconds.
    """

    def __init__(self, redis: Any, keys: Keys, scripts: Scripts, call: Call, kind: str, *, ttl: float) -> None:
        # Any: the types of redis-py 5 say that its asynchronous commands may be synchronous.
        self._redis = redis
        self._keys = keys
        self._scripts = scripts
        self._call = call
        self._kind = kind
        self._ttl = round(ttl * 1000)

    async def create(self, document_id: str, data: dict[str, Any]) -> Document | None:
        """Write a new document; None if there is one of this id, which is left as it is.

        Raises:
            InvalidRequest: the data is no JSON that could be read again.
        """
        return await self._put(Document(document_id, 0, data))

    async def get(self, document_id: str) -> Document | None:
        """A document; None where there is none."""
        return (await self.get_many([document_id]))[0]

    async def get_many(self, document_ids: Sequence[str]) -> list[Document | None]:
        """Documents in the order of their ids, None for those that are not there; one round trip."""
        if not document_ids:
            return []

        async def read() -> list[Any]:
            pipe = self._redis.pipeline(transaction=False)
            for document_id in document_ids:
                pipe.hmget(self._keys.document(self._kind, document_id), "version", "json")
            replies: list[Any] = await pipe.execute()
            return replies

        replies = await self._call(read)
        return [
            None if text is None else Document(document_id, int(version), from_json(text))
            for document_id, (version, text) in zip(document_ids, replies, strict=True)
        ]

    async def update(
        self,
        document_id: str,
        change: Callable[[dict[str, Any]], dict[str, Any] | None],
        *,
        known: Document | None = None,
    ) -> Document | None:
        """Change a document; None where there is none.

        Args:
            document_id: which.
            change: makes the new data of the present ones, which it leaves as they are; None for no change. It is
                called again where another has changed the document meanwhile. It may raise.
            known: as the document was read a moment ago, if it was: that saves to read it.

        Raises:
            InvalidRequest: the data is no JSON that could be read again.
        """
        while known is not None or (known := await self.get(document_id)) is not None:
            changed = change(known.data)
            if changed is None:
                return known
            written = await self._put(known._replace(data=changed))
            if written is not None:
                return written
            known = None
        return None

    async def is_indexed(self, document_id: str) -> bool:
        """Whether a document of this id was written and not deleted; it may have expired, or Redis may have lost it."""
        index = self._keys.documents(self._kind)
        return await self._call(lambda: self._redis.zscore(index, document_id)) is not None

    async def count_indexed(self) -> int:
        """Return how many documents were written and not deleted, those that have expired or were lost included."""
        index = self._keys.documents(self._kind)
        return int(await self._call(lambda: self._redis.zcard(index)))

    async def touch(self, document_id: str) -> None:
        """Renew a document's time to live."""

        async def renew() -> None:
            pipe = self._redis.pipeline(transaction=False)
            for key in (self._keys.document(self._kind, document_id), self._keys.documents(self._kind)):
                pipe.pexpire(key, self._ttl)
            await pipe.execute()

        await self._call(renew)

    async def delete(self, document_id: str) -> bool:
        """Remove a document; tell whether it was there."""

        async def remove() -> list[Any]:
            pipe = self._redis.pipeline(transaction=True)
            pipe.delete(self._keys.document(self._kind, document_id))
            pipe.zrem(self._keys.documents(self._kind), document_id)
            replies: list[Any] = await pipe.execute()
            return replies

        return bool((await self._call(remove))[0])

    async def newest_first(self) -> AsyncIterator[Document]:
        """All documents, by the time of their first write; drops those from the index that have expired."""
        async for part in self.parts():
            for document in part:
                yield document

    async def parts(self, *, part_bytes: int = _PART_BYTES) -> AsyncIterator[list[Document]]:
        """Iterate over all documents as `newest_first` does, in parts, each of which is read and decoded at once.

        Args:
            part_bytes: how many bytes of JSON a part has at most, unless it is one document.
        """
        index = self._keys.documents(self._kind)
        pages = NewestFirst(self._redis, self._call, index, size=_PAGE)
        while names := await pages.page():
            for part in _parts(names, await self._sizes(names), part_bytes):
                found = await self.get_many(part)
                expired = [name for name, document in zip(part, found, strict=True) if document is None]
                if expired:
                    await self._call(self._dropping(index, expired))
                if there := [document for document in found if document is not None]:
                    yield there

    async def parts_of(
        self, document_ids: Sequence[str], *, part_bytes: int = _PART_BYTES, part_length: int = _PART
    ) -> AsyncIterator[list[Document | None]]:
        """Iterate over documents in the order of their ids, in parts; None for those that are not there.

        Args:
            document_ids: which.
            part_bytes: as for `parts`.
            part_length: how many documents a part has at most.
        """
        for at in range(0, len(document_ids), _PAGE):
            names = document_ids[at : at + _PAGE]
            for part in _parts(names, await self._sizes(names), part_bytes, part_length):
                yield await self.get_many(part)

    async def _sizes(self, document_ids: Sequence[str]) -> list[int]:
        """How many bytes of JSON each document has; 0 where there is none."""

        async def read() -> list[int]:
            pipe = self._redis.pipeline(transaction=False)
            for document_id in document_ids:
                pipe.hstrlen(self._keys.document(self._kind, document_id), "json")
            sizes: list[int] = await pipe.execute()
            return sizes

        sizes: list[int] = await self._call(read)
        return sizes

    def _dropping(self, index: str, expired: Sequence[str]) -> Callable[[], Awaitable[Any]]:
        return lambda: self._redis.zrem(index, *expired)

    async def _put(self, document: Document) -> Document | None:
        text, write = _readable(document.data), secrets.token_hex(8)
        version = await self._call(
            lambda: self._scripts.put_document(
                self._kind, document.id, document.version, text, ttl=self._ttl, write=write
            )
        )
        return None if version is None else document._replace(version=version)


def _parts(
    document_ids: Sequence[str], sizes: Sequence[int], part_bytes: int, part_length: int = _PART
) -> Iterator[list[str]]:
    """What is read at once: not too many documents, and not too much; whose they are is not known before."""
    part: list[str] = []
    total = 0
    for document_id, size in zip(document_ids, sizes, strict=True):
        if part and (len(part) == part_length or total + size > part_bytes):
            yield part
            part, total = [], 0
        part.append(document_id)
        total += size
    if part:
        yield part


def _readable(data: dict[str, Any]) -> str:
    """The data as JSON that can be read again: one document that cannot would spoil every search.

    `json.dumps` writes what the parser refuses: lone surrogates, and what is nested deeper than 200 levels.
    """
    try:
        text = json.dumps(data, separators=(",", ":"), allow_nan=False)
        from_json(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest("document", f"cannot be stored: {error}") from None
    return text
