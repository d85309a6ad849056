"""Characters that come in two chunks: a surrogate at the end of one, its other half at the beginning of the next.

UTF-8 cannot carry a half, and a repair of each chunk by itself would put U+FFFD twice where the saved text has the
character. So a half at the end of a text waits for the next text in the same place: of a message's chunks, the same
field of the same call. One that never gets its other half becomes U+FFFD, once, with the last chunk.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NamedTuple, TypeAlias, TypeVar, cast

from langchain_core.messages.base import BaseMessageChunk

from runstream.characters import well_formed

_MOST_SOURCES: Final = 1024
_DEPTH: Final = 20
_SUMMED: Final = ("content", "additional_kwargs", "response_metadata", "tool_call_chunks")
_LOST: Final = "\N{REPLACEMENT CHARACTER}"


class _Entry(NamedTuple):
    """A step into a list, to the entry with an index: LangChain merges entries by that."""

    at: object
    kind: object


_Path: TypeAlias = tuple[str | _Entry, ...]
_Chunk = TypeVar("_Chunk", bound=BaseMessageChunk)


class MessageHalves:
    """Joins the halves in the chunks of the messages that are streaming."""

    def __init__(self) -> None:
        self._open: OrderedDict[object, dict[_Path, str]] = OrderedDict()

    def joined(self, source: object, message: _Chunk) -> _Chunk:
        """Return a chunk with the halves that waited for it, and without those that wait for the next one.

        Args:
            source: what tells the message from others that are streaming.
            message: its next chunk; it is left as it is.
        """
        waiting = self._open.pop(source, None)
        if waiting is None and not any(_is_broken(getattr(message, name, None)) for name in _SUMMED):
            return message
        halves = _Halves(waiting or {})
        fields = {name: halves.join(getattr(message, name), (name,)) for name in _SUMMED if hasattr(message, name)}
        if getattr(message, "chunk_position", None) == "last":
            for path in halves.waiting:
                name = cast("str", path[0])
                fields[name] = _with_text(fields[name], path[1:], _LOST)
        elif halves.waiting:
            self._open[source] = halves.waiting
            if len(self._open) > _MOST_SOURCES:
                self._open.popitem(last=False)
        return message.model_copy(update=fields)


class _Halves:
    """Walks one chunk.

    Attributes:
        waiting: the halves at the end of texts, by the place of the text.
    """

    def __init__(self, waiting: dict[_Path, str]) -> None:
        self.waiting = waiting

    def join(self, value: object, path: _Path) -> object:
        if isinstance(value, str):
            text = self.waiting.pop(path, "") + value
            if _ends_in_half(text):
                self.waiting[path], text = text[-1], text[:-1]
            return well_formed(text)
        if len(path) > _DEPTH:
            return value
        if isinstance(value, dict):
            return {key: self.join(one, (*path, key)) if isinstance(key, str) else one for key, one in value.items()}
        if isinstance(value, list):
            lost = [_LOST] if self.waiting.pop(path, "") else []
            return lost + [self._entry(one, path) for one in value]
        return value

    def _entry(self, value: object, path: _Path) -> object:
        if isinstance(value, dict) and isinstance(value.get("index"), int | str):
            return self.join(value, (*path, _Entry(value["index"], value.get("type"))))
        return value  # LangChain appends it: nothing is strung together with it


def _with_text(value: object, path: _Path, text: str) -> object:
    """A value with a text at the end of what is in a place."""
    if not path:
        return value + text if isinstance(value, str) else text
    step, rest = path[0], path[1:]
    if isinstance(step, str):
        fields = dict(value) if isinstance(value, dict) else {}
        fields[step] = _with_text(fields.get(step), rest, text)
        return fields
    entries = list(value) if isinstance(value, list) else [value] if value else []
    empty = {"type": step.kind, "index": step.at}
    if step.kind == "tool_call_chunk":
        empty |= {"name": None, "args": None, "id": None}
    return [*entries, _with_text(empty, rest, text)]


def _ends_in_half(text: str) -> bool:
    return bool(text) and "\ud800" <= text[-1] <= "\udbff"


def _is_broken(value: object, depth: int = _DEPTH) -> bool:
    """Whether there is a surrogate somewhere in a value."""
    if isinstance(value, str):
        if value.isascii():
            return False
        try:
            value.encode()
        except UnicodeEncodeError:
            return True
        return False
    if isinstance(value, dict):
        return depth > 0 and any(_is_broken(one, depth - 1) for one in value.values())
    return depth > 0 and isinstance(value, list | tuple) and any(_is_broken(one, depth - 1) for one in value)
