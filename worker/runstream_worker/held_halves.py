"""Halves of a character in what a graph writes piece by piece outside of messages: `custom` data and records' chunks.

Readers add such pieces up in ways of their own. So a piece with a text that ends in a half waits for the next piece of
the same source; if that begins with the other half in the same place, the whole character goes into it. A piece waits
until its task ends, or for `_PATIENCE`, at the longest; a half that is still alone then becomes U+FFFD.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final, TypeAlias, cast

from langchain_core.messages.base import BaseMessageChunk

from runstream.errors import RunstreamError
from runstream_worker.halves import MessageHalves
from runstream_worker.origins import Placed

_PATIENCE: Final = 5.0
_MOST_HELD: Final = 64
_MOST_LOOKED_AT: Final = 1000
_DEPTH: Final = 8

_Path: TypeAlias = tuple[object, ...]
_Pieces: TypeAlias = list[Placed]


class HeldHalves:
    """Holds the pieces of one attempt that may go on with the next one.

    Args:
        put: publishes a piece that nothing has followed in time.
    """

    def __init__(self, put: Callable[[Placed], None]) -> None:
        self._put = put
        self._held: dict[Hashable, _Pieces] = {}
        self._timers: dict[Hashable, asyncio.TimerHandle] = {}
        self._messages = MessageHalves()

    def pass_on(self, placed: Placed) -> Iterable[Placed]:
        """Return what is to be published now: the chunk, what waited for it, or nothing yet."""
        match placed.chunk.mode:
            case "custom":
                return self._take((placed.chunk.ns, placed.task), placed)
            case "events":
                return self._at_record(placed)
            case "messages":
                return (placed,)
            case _:
                return (*self._release_task(placed), placed) if self._held else (placed,)

    def rest(self) -> Iterator[Placed]:
        """What still waits, when the graph has ended."""
        for source in list(self._held):
            yield from self._release(source)

    def put_rest(self) -> None:
        """Publish what still waits, when the graph has failed; what cannot be published any more is not."""
        with suppress(RunstreamError):
            for placed in self.rest():
                self._put(placed)

    def _at_record(self, placed: Placed) -> Iterable[Placed]:
        record = cast("Mapping[str, Any]", placed.chunk.data)
        piece = _piece_of(placed)
        if isinstance(piece, BaseMessageChunk):
            return (_with_piece(placed, self._messages.joined(record["run_id"], piece)),)
        if record["event"].endswith("_stream"):
            return self._take(record["run_id"], placed)
        return (*self._release(record["run_id"]), placed)

    def _release_task(self, placed: Placed) -> _Pieces:
        """The pieces of a task that tells more than pieces: at the latest, that it has ended."""
        source = (placed.chunk.ns, placed.task)
        return [*self._release(source), *(self._release((placed.chunk.ns, None)) if placed.task is not None else ())]

    def _take(self, source: Hashable, placed: Placed) -> _Pieces:
        held = self._held.get(source)
        if held is not None:
            first, joined = _joined(held[0], placed)
            if joined is None:
                held.append(placed)
                return self._release(source) if len(held) > _MOST_HELD else []
            rest = self._release(source)[1:]
            return [first, *rest, *self._take(source, joined)]
        if not any(_ends_in_half(text) for _, text in _texts(_piece_of(placed))):
            return [placed]
        self._held[source] = [placed]
        self._timers[source] = asyncio.get_running_loop().call_later(_PATIENCE, self._give_up, source)
        return []

    def _release(self, source: Hashable) -> _Pieces:
        held = self._held.pop(source, [])
        if held:
            self._timers.pop(source).cancel()
        return held

    def _give_up(self, source: Hashable) -> None:
        with suppress(RunstreamError):
            for placed in self._release(source):
                self._put(placed)


def _joined(first: Placed, then: Placed) -> tuple[Placed, Placed | None]:
    """Two pieces, with the halves of the first in the second; None where that has no text in any such place."""
    halves = {path: text for path, text in _texts(_piece_of(first)) if _ends_in_half(text)}
    texts = {path: text for path, text in _texts(_piece_of(then)) if path in halves}
    if not texts:
        return first, None
    head, tail = _piece_of(first), _piece_of(then)
    for path, text in texts.items():
        if "\udc00" <= text[:1] <= "\udfff" or text == "":
            head = _replaced(head, path, halves[path][:-1])
            tail = _replaced(tail, path, halves[path][-1] + text)
    return _with_piece(first, head), _with_piece(then, tail)


def _piece_of(placed: Placed) -> object:
    if placed.chunk.mode == "custom":
        return placed.chunk.data
    data = cast("Mapping[str, Any]", placed.chunk.data)["data"]
    return data.get("chunk") if isinstance(data, dict) else None


def _with_piece(placed: Placed, piece: object) -> Placed:
    if piece is _piece_of(placed):
        return placed
    if placed.chunk.mode == "custom":
        return placed._replace(chunk=placed.chunk._replace(data=piece))
    record = cast("dict[str, Any]", placed.chunk.data)
    return placed._replace(
        chunk=placed.chunk._replace(data={**record, "data": {**record["data"], "chunk": piece}}),
    )


def _texts(value: object) -> Iterator[tuple[_Path, str]]:
    """The texts in a piece and their places; of a large one, the first."""
    waiting: list[tuple[_Path, object]] = [((), value)]
    for _ in range(_MOST_LOOKED_AT):
        if not waiting:
            return
        path, one = waiting.pop()
        if isinstance(one, str):
            yield path, one
        elif type(one) is dict and len(path) < _DEPTH:
            waiting += [((*path, key), part) for key, part in one.items()]
        elif type(one) in (list, tuple) and len(path) < _DEPTH:
            waiting += [((*path, at), part) for at, part in enumerate(cast("list[object]", one))]


def _replaced(value: Any, path: _Path, text: str) -> object:
    if not path:
        return text
    step, rest = path[0], path[1:]
    if isinstance(value, dict):
        return {**value, step: _replaced(value[step], rest, text)}
    parts = list(value)
    parts[cast("int", step)] = _replaced(parts[cast("int", step)], rest, text)
    return parts


def _ends_in_half(text: str) -> bool:
    return "\ud800" <= text[-1:] <= "\udbff"
