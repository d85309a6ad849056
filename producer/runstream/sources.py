"""Whose messages a reader wants: nodes have the same names in every graph, so the graph is part of the question."""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import Final, Self

from runstream.errors import InvalidRequest
from runstream.model import Event

ROOT: Final = ""
EVERY: Final = "*"


@dataclass(frozen=True, slots=True)
class Sources:
    """The nodes and namespaces that a reader wants.

    Attributes:
        nodes: the names of the nodes; None for all.
        namespaces: the names of the namespaces (`name_of`), or their ids; None for all.
    """

    nodes: Container[str] | None = None
    namespaces: frozenset[str] | None = None

    @classmethod
    def of(cls, nodes: Container[str] | None, ns: str | Iterable[str] | None) -> Self:
        """Make them of what a reader asks for.

        Args:
            nodes: the nodes; all when left out.
            ns: the namespaces: `""` for the graph itself, `"*"` for all, else a subgraph by the name of the node
                that it runs in (`"research"`, or `"research|search"` further down), or with the tasks' ids, as in
                `Event.ns`. When left out: the graph itself if nodes are named, else all.

        Raises:
            InvalidRequest: `ns` is neither text nor several texts.
        """
        if ns is None:
            return cls(nodes, None if nodes is None else frozenset({ROOT}))
        given = frozenset([ns] if isinstance(ns, str) else ns)
        if not all(isinstance(one, str) for one in given):
            raise InvalidRequest("ns", f"{ns!r} must be a name such as 'research', '' for the graph itself, or '*'")
        return cls(nodes, None if EVERY in given else given)

    def have_ns(self, ns: tuple[str, ...]) -> bool:
        """Whether what a namespace emits is wanted."""
        wanted = self.namespaces
        return wanted is None or name_of(ns) in wanted or (bool(ns) and "|".join(ns) in wanted)

    def have(self, event: Event) -> bool:
        """Whether an event of the mode `messages` is wanted."""
        node = event.data[1].get("langgraph_node")
        return (self.nodes is None or node in self.nodes) and self.have_ns(event.ns)


def name_of(ns: tuple[str, ...]) -> str:
    """The name of a namespace: its nodes, joined by `|`; without tasks' ids, and the numbers of calls in one task."""
    return "|".join(segment.rpartition(":")[0] for segment in ns if ":" in segment)
