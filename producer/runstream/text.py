"""The text of an event, for those who want only the tokens."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Any

from runstream.model import Event
from runstream.sources import Sources


def text_of(event: Event, nodes: Container[str] | None = None, ns: str | Iterable[str] | None = None) -> str:
    """The text that an event adds to an AI message; empty for every other event.

    Args:
        event: an event; only those of mode `messages` have text.
        nodes: only text of these nodes (`langgraph_node` of the message's metadata).
        ns: only text of these namespaces, as in `Sources.of`.
    """
    return text_of_message(event.data[0]) if is_spoken(event, Sources.of(nodes, ns)) else ""


def is_spoken(event: Event, sources: Sources) -> bool:
    """Whether an event is of an AI message, and of one of the sources."""
    if event.mode != "messages" or event.data[0].get("type") not in ("ai", "AIMessageChunk"):
        return False
    return sources.have(event)


def text_of_message(message: Mapping[str, Any]) -> str:
    """The text of a message, as JSON: of its content, which is a string or a list of blocks."""
    return _text(message.get("content"))


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    return "".join(block if isinstance(block, str) else _block_text(block) for block in content)


def _block_text(block: Any) -> str:
    text = block.get("text") if isinstance(block, dict) and block.get("type") == "text" else None
    return text if isinstance(text, str) else ""
