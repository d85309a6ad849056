"""What a filter lets through."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from runstream_gateway.auth.caller import Filter
from runstream_gateway.errors import ApiError

MINE = {"owner": "u1", "members": ["u1", "u2"], "n": 1, "deep": {"a": 1}}
ID = UUID("01985d2e-6f1c-7b3a-9d44-0c5d6f6f2a11")


@pytest.mark.parametrize(
    "conditions",
    [
        None,
        {},
        {"owner": "u1"},
        {"owner": {"$eq": "u1"}},
        {"members": {"$contains": "u2"}},
        {"members": {"$contains": ["u2", "u1"]}},
        {"deep": {"$eq": {"a": 1}}},
        {"owner": "u1", "n": 1},
        {"$or": [{"owner": "u2"}, {"members": {"$contains": "u1"}}]},
        {"$and": [{"owner": "u1"}, {"n": {"$eq": 1}}], "owner": "u1"},
        {"$or": [{"$and": [{"owner": "u1"}, {"n": 1}]}, {"owner": "u2"}]},
    ],
)
def test_it_lets_through_what_matches(conditions: dict[str, Any] | None) -> None:
    assert Filter(conditions).matches(MINE)


@pytest.mark.parametrize(
    "conditions",
    [
        {"owner": "u2"},
        {"owner": None},
        {"other": "u1"},
        {"other": None},
        {"owner": "u1", "n": 2},
        {"owner": {"$contains": "u1"}},  # of a text, nothing is contained
        {"members": "u1"},
        {"members": {"$contains": ["u1", "u3"]}},
        {"$or": [{"owner": "u2"}, {"n": 2}]},
        {"$or": [{"owner": "u1"}, {"n": 1}], "other": 1},
        {"$and": [{"owner": "u1"}, {"n": 2}]},
    ],
)
def test_it_keeps_back_what_does_not(conditions: dict[str, Any]) -> None:
    assert not Filter(conditions).matches(MINE)
    assert not Filter(conditions).matches({})
    assert not Filter(conditions).matches(None)


@pytest.mark.parametrize(
    "conditions",
    [
        {"owner": {"$in": ["u1"]}},
        {"owner": {}},
        {"owner": {"a": 1}},
        {"owner": {"$eq": 1, "$contains": 2}},
        {"$not": {"owner": "u1"}},
        {"$or": [{"owner": "u1"}]},
        {"$or": [{"owner": "u1"}, {}]},
        {"$or": {"owner": "u1"}},
        {"$and": "u1"},
        {"$and": [{"owner": "u1"}, "u1"]},
        {"$or": [{"$or": [{"$or": [{"a": 1}, {"a": 2}]}, {"a": 3}]}, {"a": 4}]},
    ],
)
def test_one_that_is_not_understood_lets_nothing_through(conditions: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as refused:
        Filter(conditions)
    assert refused.value.status == 500


def test_ids_are_text_as_in_metadata() -> None:
    assert Filter({"owner": ID}).matches({"owner": str(ID)})


def test_an_empty_one_is_no_restriction_and_says_so() -> None:
    assert not Filter()
    assert Filter({"owner": "u1"})
    assert Filter({"owner": "u1"}) == Filter({"owner": "u1"})
    assert len({Filter({"a": 1}), Filter({"a": 1})}) == 1
