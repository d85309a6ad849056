"""Whether JSON contains other JSON, as PostgreSQL's `@>` has it, by which LangGraph's server searches.

Objects are compared by their keys, and lists by their entries, each of which has to be contained in some entry;
anything else has to be equal. Texts, numbers and literals of a list are looked up in a set, so the time grows with the
sum of the two sizes. Objects and lists within a list have to be compared in pairs: those steps count against a budget.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from runstream_gateway.errors import ApiError
from runstream_gateway.pieces import opened

MOST_STEPS: Final = 1_000_000
"""How many steps of comparing entries in pairs a request may take: about a second of computing."""


class Containment:
    """What has to be contained, and what a request may still spend on comparing it.

    Args:
        part: as decoded from JSON.
        field: what the request calls it, for the refusal.
        most: how many steps the request may take within pairs.

    Attributes:
        is_linear: whether nothing has to be compared in pairs.
    """

    def __init__(self, part: Mapping[str, Any], field: str, *, most: int = MOST_STEPS) -> None:
        self._part = part
        self._field = field
        self._most = self._left = most
        self.is_linear = _is_linear(part)

    def __bool__(self) -> bool:
        return bool(self._part)

    def is_in(self, whole: object) -> bool:
        """Return whether this is contained in `whole`, which may have pieces of JSON in it.

        Raises:
            ApiError: 422, the request has compared too much.
        """
        return self._contains(whole, self._part, 0)

    def _contains(self, whole: object, part: object, cost: int) -> bool:
        """Compare; `cost` is what an entry costs: 1 within a pair, else 0."""
        whole = opened(whole)
        if isinstance(part, Mapping):
            if not isinstance(whole, Mapping):
                return False
            for key, value in part.items():
                self._spend(cost)
                if key not in whole or not self._contains(whole[key], value, cost):
                    return False
            return True
        if isinstance(part, list):
            return isinstance(whole, list) and self._list_contains(whole, part, cost)
        return not isinstance(whole, Mapping | list) and _scalar(whole) == _scalar(part)

    def _list_contains(self, whole: list[Any], part: list[Any], cost: int) -> bool:
        self._spend(cost * len(part))
        missing = {_scalar(value) for value in part if not isinstance(value, Mapping | list)}
        nested = [value for value in part if isinstance(value, Mapping | list)]
        for each in whole:
            if not missing and not nested:
                break
            self._spend(cost + len(nested))
            entry = opened(each)
            if isinstance(entry, Mapping | list):
                nested = [wanted for wanted in nested if not self._contains(entry, wanted, 1)]
            else:
                missing.discard(_scalar(entry))
        return not missing and not nested

    def _spend(self, steps: int) -> None:
        self._left -= steps
        if self._left < 0:
            raise ApiError(
                422,
                f"{self._field}: takes more than {self._most:,} comparisons of objects within lists; give fewer of "
                "them, or narrow the search by what is outside of lists",
            )


def _scalar(value: Any) -> Any:
    """A value that is equal where JSON's is: Python takes true for 1."""
    return ("literal", value) if isinstance(value, bool) else value


def _is_linear(part: object) -> bool:
    if isinstance(part, Mapping):
        return all(_is_linear(value) for value in part.values())
    return not isinstance(part, list) or not any(isinstance(value, Mapping | list) for value in part)
