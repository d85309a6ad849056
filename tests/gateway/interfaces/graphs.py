"""Graphs as projects write them for LangGraph's server."""

from __future__ import annotations

from typing import TypedDict

from langgraph.graph import START, StateGraph


class Said(TypedDict, total=False):
    text: str


def say(state: Said) -> Said:
    return {"text": state.get("text", "") + "!"}


echo = StateGraph(Said).add_node(say).add_edge(START, "say").compile()
