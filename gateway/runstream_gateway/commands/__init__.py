"""The gateway's commands of `runstream`.

Every call of `runstream` imports this package, so it imports nothing of FastAPI or LangGraph; the commands do, when they
run.
"""

from __future__ import annotations

from runstream.cli.app import Commands
from runstream_gateway.commands import keys


def register(commands: Commands) -> None:
    """Add the commands; the entry point of `runstream.commands`."""
    keys.add(commands)
