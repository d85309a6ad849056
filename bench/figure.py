"""What a benchmark is given and what it gives back."""

from __future__ import annotations

import secrets
import statistics
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias


@dataclass(frozen=True)
class Target:
    """What a figure has to reach."""

    sense: Literal["<=", ">="]
    value: float

    def met_by(self, value: float) -> bool:
        """Whether the figure is good enough."""
        return value <= self.value if self.sense == "<=" else value >= self.value

    def __str__(self) -> str:
        """As it stands in the table."""
        return f"{self.sense} {self.value:g}"


@dataclass(frozen=True)
class Measurement:
    """One row of the table; `ok` is None for what has no target and is told for comparison."""

    metric: str
    value: float
    unit: str
    target: Target | None = None

    @property
    def ok(self) -> bool | None:
        """Whether the target is met."""
        return None if self.target is None else self.target.met_by(self.value)

    def as_json(self) -> dict[str, Any]:
        """The row for the JSON file."""
        target = None if self.target is None else str(self.target)
        return {"metric": self.metric, "value": self.value, "unit": self.unit, "target": target, "ok": self.ok}


@dataclass(frozen=True)
class Ground:
    """What a figure is measured on.

    Attributes:
        redis_url: of a Redis that nobody else uses meanwhile.
        quick: measure little: it shows that the benchmark works, not how fast anything is.
        others: name and base URL of other servers of LangGraph's HTTP API, to be measured beside ours.
        namespace: keeps this figure's keys apart.
    """

    redis_url: str
    quick: bool = False
    others: tuple[tuple[str, str], ...] = ()
    namespace: str = field(default_factory=lambda: f"bench{secrets.token_hex(3)}")

    def size(self, full: int, quick: int) -> int:
        """How much to do."""
        return quick if self.quick else full


Figure: TypeAlias = Callable[[Ground], Awaitable[list[Measurement]]]


def percentile(values: Sequence[float], percent: int) -> float:
    """The value that this many percent of the values do not exceed."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]
