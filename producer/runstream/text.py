"""The text of an event, for those who want only the tokens."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from runstream.model import Event


def text_of(event: Event, nodes: Container[str] | None = None) -> str:
    """The text that an event adds to an AI message; empty for every other event.

    Args:
        event: an event; only those of mode `messages` have text.
        nodes: only text of these nodes (`langgraph_node` of the message's metadata).
    """
    return text_of_message(event.data[0]) if is_spoken(event, nodes) else ""


def is_spoken(event: Event, nodes: Container[str] | None = None) -> bool:
    """Whether an event is of an AI message, and of one of the nodes."""
    if event.mode != "messages":
        return False
    message, metadata = event.data
    if message.get("type") not in ("ai", "AIMessageChunk"):
        return False
    return nodes is None or metadata.get("langgraph_node") in nodes


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
