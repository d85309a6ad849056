"""Surrogates: halves of a character that text may hold in Python and JSON, and UTF-8 cannot carry."""

from __future__ import annotations


def well_formed(text: str) -> str:
    """Join surrogates that are a pair, and put U+FFFD in the place of those that are not.

    A broken character is no reason to fail, and two halves that stand side by side are no broken character.
    """
    if text.isascii():
        return str.__str__(text)
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
