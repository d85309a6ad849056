"""Lists as answers: encoded entry by entry, and refused when they become too large."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from runstream_gateway.errors import ApiError
from runstream_gateway.jsonbytes import dumps
from runstream_gateway.pieces import Piece

MOST_BYTES: Final = 16 * 1024 * 1024
"""How many bytes of JSON a list may have."""
MOST_EXTRACTED: Final = 100
LONGEST_PATH: Final = 300


class BoundedList:
    """The entries of an answer.

    Args:
        of: what they are, such as `threads`.
        how: what a client can do to get less.
        most: how many bytes they may have together.
    """

    def __init__(self, of: str, how: str, *, most: int = MOST_BYTES) -> None:
        self._of = of
        self._how = how
        self._most = most
        self._left = most
        self.content: list[Piece] = []

    def add(self, entry: Mapping[str, Any]) -> None:
        """Add an entry.

        Raises:
            ApiError: 422, the answer would be too large.
        """
        piece = Piece(dumps(entry))
        self.check(len(piece.data))
        self._left -= len(piece.data)
        self.content.append(piece)

    def check(self, size: int) -> None:
        """Check that there is room for the next entry.

        Raises:
            ApiError: 422, the answer would be too large.
        """
        if size > self._left:
            raise ApiError(
                422,
                f"the answer would be larger than {self._most:,} bytes, with more than {len(self.content)} {self._of}; "
                f"{self._how}",
            )

    def extracted(self, entry: Mapping[str, Any], paths: Mapping[str, str]) -> dict[str, Piece]:
        """Return what lies at each of these paths in an entry, by the names that the answer has for them.

        Raises:
            ApiError: 422, the answer would be too large.
        """
        found: dict[str, Piece] = {}
        size = 0
        for name, path in paths.items():
            found[name] = Piece(dumps(at_path(entry, path)))
            size += len(found[name].data)
            self.check(size)
        return found


def at_path(value: Any, path: str) -> Any:
    """Return what lies at a path such as `values.messages[-1].content`; None where nothing does.

    Pieces on the way are decoded once, and stay so in their place.
    """
    for name in path.replace("[", ".[").split("."):
        try:
            key: Any = int(name[1:-1]) if name.startswith("[") else name
            found = value[key]
            if isinstance(found, Piece):
                found = value[key] = found.value()
        except (KeyError, IndexError, TypeError, ValueError):
            return None
        value = found
    return value


def check_paths(paths: Mapping[str, str] | None) -> None:
    """Check how much an answer is to extract.

    Raises:
        ApiError: 422, there are too many paths, or one is too long.
    """
    if len(paths or {}) > MOST_EXTRACTED:
        raise ApiError(422, f"extract: {len(paths or {})} paths must be at most {MOST_EXTRACTED}")
    for name, path in (paths or {}).items():
        if len(path) > LONGEST_PATH:
            raise ApiError(422, f"extract.{name}: has {len(path)} characters and must have at most {LONGEST_PATH}")
