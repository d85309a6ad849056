"""Surrogates: halves of a character that text may hold in Python and JSON, and UTF-8 cannot carry."""

from __future__ import annotations

from typing import Any


def well_formed(text: str) -> str:
    """Join surrogates that are a pair, and put U+FFFD in the place of those that are not.

    A broken character is no reason to fail, and two halves that stand side by side are no broken character.
    """
    if text.isascii():
        return str.__str__(text)
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def well_formed_in(value: Any) -> Any:
    """Return a value with all its texts `well_formed`: JSON may spell a half as an escape."""
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, dict):
        return {well_formed(key): well_formed_in(one) for key, one in value.items()}
    return [well_formed_in(one) for one in value] if isinstance(value, list) else value
