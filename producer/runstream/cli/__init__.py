"""The command line: `runstream`, and `python -m runstream`."""

from __future__ import annotations

from runstream.cli.app import main

__all__ = ["main"]
