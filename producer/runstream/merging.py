"""How the chunks of a message add up: as LangChain's `AIMessageChunk` addition does, on its JSON.

The rules are those of `langchain_core.messages.ai.add_ai_message_chunks` and what it calls; tests compare the two.
Where LangChain refuses (two kinds of value in one place), the later value stands here: a reader can refuse nothing.

A sum is mutable JSON in which a text that has grown is a `Rope`; `plain` gives it as JSON. What is merged in is never
changed, and never becomes part of the sum.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

Tree: TypeAlias = Any
"""JSON with `Rope` in the place of some texts."""

_MOST_PIECES = 1024
_NOT_REPEATED: Final = frozenset({"id", "output_version", "model_provider"})
"""Fields of text that every chunk may repeat; other texts are strung together."""
_LAST_WINS: Final = frozenset({"index", "created", "timestamp"})
"""Fields of whole numbers that are no amounts; others are added up."""
_LC = "lc_"


class Rope:
    """A text that grows in time that is proportional to what is added."""

    __slots__ = ("_pieces",)

    def __init__(self, *pieces: str) -> None:
        self._pieces = list(pieces)

    def add(self, piece: str) -> None:
        """Put a piece behind it."""
        self._pieces.append(piece)
        if len(self._pieces) >= _MOST_PIECES:
            str(self)

    def __str__(self) -> str:
        """The text."""
        if len(self._pieces) != 1:
            self._pieces = ["".join(self._pieces)]
        return self._pieces[0]


def plain(tree: Tree) -> Any:
    """A sum as JSON of its own: later changes of the sum do not reach it."""
    if isinstance(tree, Rope):
        return str(tree)
    if isinstance(tree, dict):
        return {key: plain(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [plain(value) for value in tree]
    return tree


def merge_content(left: Tree, right: Any) -> Tree:
    """The content of two chunks, each a text or a list of blocks."""
    if _is_text(left):
        return _joined(left, right) if isinstance(right, str) else [left, *plain(right)]
    if isinstance(right, list):
        return merge_lists(left, right)
    if left and _is_text(left[-1]):
        left[-1] = _joined(left[-1], right)
    elif left and right != "":
        left.append(right)
    return left


def merge_lists(left: list[Tree], right: list[Any]) -> list[Tree]:
    """Entries that have the `index` of an earlier one, and no other id, are merged with it; the others are added."""
    for entry in right:
        at = _place_of(entry, left) if isinstance(entry, dict) else None
        if at is None:
            left.append(plain(entry))
        else:
            left[at] = merge_dicts(left[at], _without_type(entry, left[at]))
    return left


def _place_of(entry: dict[str, Any], entries: list[Tree]) -> int | None:
    index = entry.get("index")
    if not isinstance(index, int) and not (isinstance(index, str) and index.startswith(_LC)):
        return None
    for at, other in enumerate(entries):
        if isinstance(other, dict) and "index" in other and _value(other["index"]) == index and _may_be(other, entry):
            return at
    return None


def _may_be(left: dict[str, Tree], right: dict[str, Any]) -> bool:
    """Whether the ids of two entries do not tell them apart."""
    ids = _value(left.get("id")), right.get("id")
    return ids[0] == ids[1] or any(one is None or one == "" for one in ids)


def _without_type(entry: dict[str, Any], left: dict[str, Tree]) -> dict[str, Any]:
    """What is merged of an entry into an earlier one: its type is not strung together with the other's."""
    kind = _value(left.get("type"))
    if kind and entry.get("type") == "non_standard" and "value" in entry:
        value = {key: part for key, part in entry["value"].items() if key != "type"}
        return {"extras": value} if kind != "non_standard" else {"value": value, "index": entry["index"]}
    return {key: part for key, part in entry.items() if key != "type"}


def merge_dicts(left: dict[str, Tree], right: dict[str, Any]) -> dict[str, Tree]:
    """Each field by its kind: texts are strung together, whole numbers added, objects and lists merged."""
    for key, value in right.items():
        if left.get(key) is None:
            if value is not None or key not in left:
                left[key] = plain(value)
        elif value is not None:
            left[key] = _merged(key, left[key], value)
    return left


def _merged(key: str, left: Tree, right: Any) -> Tree:
    match left, right:
        case ((str() | Rope()), str()):
            same = key in _NOT_REPEATED and str(left) == right
            return left if same or (key == "index" and str(left).startswith(_LC)) else _joined(left, right)
        case dict(), dict():
            return merge_dicts(left, right)
        case list(), list():
            return merge_lists(left, right)
        case (bool(), _) | (_, bool()):
            return right
        case int(), int() if left != right and key not in _LAST_WINS:
            return left + right
        case _:
            return plain(right)


def add_usage(left: dict[str, Tree], right: dict[str, Any]) -> dict[str, Tree]:
    """Counts of tokens, added up at every level."""
    for key, value in right.items():
        before = left.get(key)
        if isinstance(before, dict) and isinstance(value, dict):
            left[key] = add_usage(before, value)
        elif isinstance(before, int) and isinstance(value, int):
            left[key] = before + value
        elif value is not None or key not in left:
            left[key] = plain(value)
    return left


def _is_text(value: Tree) -> bool:
    return isinstance(value, str | Rope)


def _joined(left: str | Rope, right: str) -> str | Rope:
    if isinstance(left, Rope):
        left.add(right)
        return left
    return Rope(left, right) if left and right else left or right


def _value(tree: Tree) -> Any:
    return str(tree) if isinstance(tree, Rope) else tree
