"""Python's garbage collector, set for a process that streams."""

from __future__ import annotations

import gc
from typing import Final

_YOUNG: Final = 10_000
"""So many objects more than were freed start a collection. Python's 700 are made and kept by a few dozen tokens."""


def tune_collector() -> None:
    """Spare the collector what it need not look at; for a process that does nothing but work, once it has imported all.

    LangChain and LangGraph make several hundred thousand objects on import, which are never freed but are looked at in
    every full collection; and a model's chunks are kept until its answer is complete, so each of them is looked at
    again and again. With Python's defaults that is half of the time that a streamed token takes.
    """
    gc.collect()
    gc.freeze()
    _, middle, old = gc.get_threshold()
    gc.set_threshold(_YOUNG, middle, old)
