"""`docs/SECURITY.md` names tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "SECURITY.md").read_text("utf-8")


def test_each_promise_names_tests_that_there_are() -> None:
    promises = PAGE.split("## What is promised")[1].split("## ")[0]
    rows = [line.split("|")[1:3] for line in promises.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 15
    for promise, shown_by in rows:
        names = re.findall(r"`([\w/.]+\.py)`", shown_by)
        assert names, promise
        folder = ROOT
        for name in names:
            path = ROOT / name if "/" in name else folder / name
            folder = path.parent
            assert path.is_file(), f"{promise}: {path}"


def test_the_pages_link_to_it() -> None:
    for page, link in (
        ("README.md", "docs/SECURITY.md"),
        ("docs/GATEWAY.md", "SECURITY.md"),
        ("docs/GUIDE.md", "SECURITY.md"),
    ):
        assert link in (ROOT / page).read_text("utf-8")
