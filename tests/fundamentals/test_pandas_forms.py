"""What pandas holds has the form of its value, as a value and as a key; its tables have none."""

from __future__ import annotations

import json
from importlib import import_module
from typing import Any

import pytest
from pydantic_core import from_json

from runstream_worker.encoding import JsonEncoder

pd: Any = import_module("pandas")  # it has no types

SCALARS = [
    (pd.NaT, None),
    (pd.NA, None),
    (pd.Timestamp("2026-01-02T03:04:05.123456789"), "2026-01-02T03:04:05.123456789"),
    (pd.Timestamp("2026-01-02", tz="UTC"), "2026-01-02T00:00:00+00:00"),
    (pd.Timedelta(seconds=90), 90.0),
    (pd.Timedelta("NaT"), None),
    (pd.Period("2026-01", freq="M"), "2026-01"),
]
TABLES = [
    pd.Series([1]),
    pd.DataFrame({"a": [1]}),
    pd.Index([1]),
    pd.Categorical(["a"]),
    pd.Interval(0, 1),
]


def encoded(value: object) -> Any:
    return from_json(JsonEncoder().encode(value, "x"))


@pytest.mark.parametrize(("value", "form"), SCALARS, ids=[str(value) for value, _ in SCALARS])
def test_a_scalar_of_pandas_has_the_form_of_its_value(value: Any, form: object) -> None:
    assert encoded(value) == form
    assert encoded([value, object()])[0] == form
    assert encoded({value: 1}) == {form if isinstance(form, str) else json.dumps(form): 1}


@pytest.mark.parametrize("value", TABLES, ids=[type(value).__name__ for value in TABLES])
def test_a_table_has_no_one_form(value: Any) -> None:
    shown = encoded({"a": value, "b": 1})
    assert shown["b"] == 1
    assert (shown["a"]["type"], shown["a"]["id"][-1]) == ("not_implemented", type(value).__name__)
