"""What of the things of a kind a caller may see."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol


class Allowed(Protocol):
    """Which resources of a kind are the caller's to see."""

    def matches(self, metadata: Mapping[str, Any]) -> bool:
        """Whether a resource with this metadata is."""


class Everything:
    """All of them."""

    def matches(self, metadata: Mapping[str, Any]) -> bool:  # noqa: ARG002 - as the protocol has it
        """Yes."""
        return True


EVERYTHING: Allowed = Everything()


_DEEPEST: Final = 50


def contains(whole: object, part: object, *, depth: int = 0) -> bool:
    """Whether JSON contains other JSON: objects by their keys, lists by their entries, anything else if it is equal.

    As PostgreSQL's `@>`, by which LangGraph's server searches. But what lies deeper than 50 levels has to be equal:
    a body may be nested deeper than Python's calls.
    """
    if depth == _DEEPEST:
        return whole == part
    inside = depth + 1
    if isinstance(part, Mapping):
        return isinstance(whole, Mapping) and all(
            key in whole and contains(whole[key], value, depth=inside) for key, value in part.items()
        )
    if isinstance(part, list):
        return isinstance(whole, list) and all(
            any(contains(entry, value, depth=inside) for entry in whole) for value in part
        )
    return whole == part
