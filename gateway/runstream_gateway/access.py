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
