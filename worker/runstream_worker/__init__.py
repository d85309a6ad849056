"""Runs the agents: claims runs, streams their graphs, publishes every chunk."""

from __future__ import annotations
