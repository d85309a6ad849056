"""A long list in pieces, so that a list that grows is not written again with each step.

A chat's messages are one channel: each step makes a new version of the whole list, which differs from the one before by
its last entries. So the serialised list is cut between its entries, and each piece is kept under the digest of its
bytes: what is there already needs no second copy. Joined, the pieces are what the serialiser would have made of the
list; so cutting is a matter of storage only, and what reads need not know of it.

A piece is a leaf, `l` and bytes, or a node, `n` and the digests of 32 leaves. The digests of 200 messages take 3 kB,
which would be written with each step; with nodes they take 600 bytes at most.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from langgraph.checkpoint.serde.base import SerializerProtocol

_DIGEST = 16
_FAN = 32
_CUT_FROM = 1024
"""Shorter lists stay whole, in bytes."""
_LEAF = 256
"""Entries are gathered until a leaf has this size, in bytes."""
_NEW = 4
_SCALARS = (bool, int, float, type(None))


@dataclass(frozen=True)
class Cut:
    """A list in pieces.

    Attributes:
        lead: what comes before the first entry: the number of entries, as MessagePack says it.
        refs: the digests of nodes, and of the leaves that fill no node yet.
        pieces: every piece by its digest, in the order in which a growing list brings them about.
    """

    lead: bytes
    refs: Sequence[bytes]
    pieces: Mapping[bytes, bytes]


def cut(serde: SerializerProtocol, value: Any) -> Cut | None:
    """Cut a value; None where it is no list, is short, or has entries that are better kept together.

    Args:
        serde: gives the same bytes for the same entry, with or without a list around it, as MessagePack does.
        value: of a channel.
    """
    entries = _entries(serde, value) if type(value) is list else None
    if entries is None or sum(map(len, entries)) < _CUT_FROM:
        return None
    pieces: dict[bytes, bytes] = {}
    nodes: list[bytes] = []
    loose: list[bytes] = []
    for leaf in _leaves(entries):
        loose.append(_keep(pieces, b"l" + leaf))
        if len(loose) == _FAN:
            nodes.append(_keep(pieces, b"n" + b"".join(loose)))
            loose.clear()
    return Cut(_array_head(len(entries)), [*nodes, *loose], pieces)


class Sending:
    """Which pieces are sent to Redis, and which should be there already.

    A list that has grown has new pieces at its end, so the last ones are sent without asking, and the others are named
    only. Where that was too little (the list has grown by more, or the thread is new to this Redis), Redis says what is
    missing. A node that is there has its leaves with it, for they come and go together.
    """

    def __init__(self, cuts: Iterable[Cut]) -> None:
        self._pieces: dict[bytes, bytes] = {}
        self._needed: set[bytes] = set()
        self._sent: set[bytes] = set()
        for cut in cuts:
            self._pieces |= cut.pieces
            self._needed.update(cut.refs)
            self._send(list(cut.pieces)[-_NEW:])

    def add(self, names: Iterable[bytes]) -> None:
        """Send these, too, and what is in them."""
        digests = [name[1:] for name in names]
        for digest in digests:
            self._send([digest, *_below(self._pieces[digest])])

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        for digest in self._sent | self._needed:
            yield b"p" + digest, self._pieces[digest] if digest in self._sent else b"?"

    def _send(self, digests: Sequence[bytes]) -> None:
        self._sent.update(digests)
        for digest in digests:
            self._needed.update(_below(self._pieces[digest]))


def _below(piece: bytes) -> list[bytes]:
    """The digests in a node; none in a leaf."""
    return [piece[at : at + _DIGEST] for at in range(1, len(piece), _DIGEST)] if piece[:1] == b"n" else []


def _entries(serde: SerializerProtocol, value: list[Any]) -> list[bytes] | None:
    """Each entry as MessagePack; None where one has another form by itself, or is a number."""
    entries = []
    for entry in value:
        if isinstance(entry, _SCALARS):
            return None
        kind, data = serde.dumps_typed(entry)
        if kind != "msgpack":
            return None
        entries.append(data)
    return entries


def _leaves(entries: Sequence[bytes]) -> Iterator[bytes]:
    """The entries, small ones together.

    Which ones belong together depends on those before them only: a list that grows keeps its leaves.
    """
    gathered, size = [], 0
    for entry in entries:
        gathered.append(entry)
        size += len(entry)
        if size >= _LEAF:
            yield b"".join(gathered)
            gathered, size = [], 0
    if gathered:
        yield b"".join(gathered)


def _keep(pieces: dict[bytes, bytes], piece: bytes) -> bytes:
    digest = blake2b(piece, digest_size=_DIGEST).digest()
    pieces[digest] = piece
    return digest


def _array_head(length: int) -> bytes:
    """How MessagePack begins an array."""
    if length < 1 << 4:
        return bytes([0x90 | length])
    if length < 1 << 16:
        return b"\xdc" + length.to_bytes(2, "big")
    return b"\xdd" + length.to_bytes(4, "big")
