"""What of the things of a kind a caller may see."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


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


def contains(whole: object, part: object) -> bool:
    """Whether JSON contains other JSON: objects by their keys, lists by their entries, anything else if it is equal.

    As PostgreSQL's `@>`, by which LangGraph's server searches.
    """
    if isinstance(part, Mapping):
        return isinstance(whole, Mapping) and all(
            key in whole and contains(whole[key], value) for key, value in part.items()
        )
    if isinstance(part, list):
        return isinstance(whole, list) and all(any(contains(entry, value) for entry in whole) for value in part)
    return whole == part
