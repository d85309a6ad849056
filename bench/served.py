"""The graphs of the HTTP measurements, for servers that read `langgraph.json`."""

from __future__ import annotations

from bench.graphs import chat as make_chat

chat = make_chat(None)
