"""Marks: what an execution leaves in the state, so that whoever reads the state knows what the stream has to have."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from typing import Any, Final

_MARK: Final = re.compile(r"<(\w+) ([0-9a-f]{8}) (outside|inside) (\d+)>")


@dataclass(frozen=True)
class Mark:
    """One execution of a node: its name, a number that no other execution has, and how many custom events it emits.

    What a node of a subgraph emits (`inside`) is in the stream only if the run streams subgraphs.
    """

    name: str
    nonce: str
    inside: bool
    customs: int

    @classmethod
    def new(cls, name: str, customs: int = 0, *, inside: bool = False) -> Mark:
        """The mark of an execution that begins."""
        return cls(name, secrets.token_hex(4), inside, customs)

    def __str__(self) -> str:
        return f"<{self.name} {self.nonce} {'inside' if self.inside else 'outside'} {self.customs}>"

    def custom(self, number: int) -> dict[str, Any]:
        """The data of its custom events, which count from 0."""
        return {"by": self.name, "nonce": self.nonce, "n": number}


def marks_in(text: str) -> list[Mark]:
    """The marks in a text, which may be a whole state as JSON."""
    return [Mark(name, nonce, place == "inside", int(customs)) for name, nonce, place, customs in _MARK.findall(text)]
