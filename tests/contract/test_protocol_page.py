"""`docs/PROTOCOL.md` says what the code does: the scripts' own words stand there, and so do all keys and states."""

from __future__ import annotations

import inspect
import itertools
from importlib.resources import files
from pathlib import Path
from typing import get_args

import pytest

from runstream.keys import Keys
from runstream.model import Status
from runstream.scripts import ScriptName

PAGE = (Path(__file__).parents[2] / "docs" / "PROTOCOL.md").read_text("utf-8")


@pytest.mark.parametrize("name", get_args(ScriptName))
def test_the_head_of_every_script_stands_in_the_page(name: str) -> None:
    text = (files("runstream") / "lua" / f"{name}.lua").read_text("utf-8")
    comment = itertools.takewhile(lambda line: line.startswith("--") and not line.startswith("--#"), text.splitlines())
    head = "\n".join(line[3:] for line in comment)
    assert f"### {name}\n\n```text\n{head}\n```" in PAGE


def test_every_key_stands_in_the_page() -> None:
    keys = Keys("T")
    for name, member in inspect.getmembers(Keys):
        if name.startswith("_") or name in ("tag", "run_id"):
            continue
        places = len(inspect.signature(member).parameters) - 1 if callable(member) else 0
        spelled: str = member(keys, *["<x>"] * places) if callable(member) else getattr(keys, name)
        beginning = spelled.replace(keys.tag, "T").split("%3Cx%3E")[0].split("<x>")[0]
        assert f"`{beginning}" in PAGE, name


def test_every_state_stands_in_the_page() -> None:
    assert all(f"`{status}`" in PAGE for status in Status if status.ended)
