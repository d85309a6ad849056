"""What a graph of the zoo is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from langgraph.checkpoint.base import BaseCheckpointSaver


@dataclass(frozen=True)
class Case:
    """A graph, what it is given, and how that ends.

    Attributes:
        name: what the tests call it.
        build: makes the graph anew; what it remembers between two runs is in the checkpointer only.
        inputs: one input per run, on one thread; after the first mostly commands that answer an interrupt.
        options: parameters of `astream` for every run.
        configurable: what every run's config holds under that name.
        ends: the status with which each of the runs ends.
        in_order: whether the chunks come in one order; parallel subgraphs end as soon as they have saved their state.
        error: the type and message of the exception in those that end with `error`.
    """

    name: str
    build: Callable[[BaseCheckpointSaver[Any]], Any]
    inputs: tuple[Any, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    configurable: Mapping[str, Any] = field(default_factory=dict)
    ends: tuple[str, ...] = ("success",)
    error: tuple[str, str] | None = None
    in_order: bool = True

    def __post_init__(self) -> None:
        assert len(self.inputs) == len(self.ends), self.name

    def __str__(self) -> str:
        return self.name
