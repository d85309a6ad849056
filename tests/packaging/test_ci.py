"""Continuous integration does what the README tells a newcomer to do."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUN = "python3 -m venv .venv && .venv/bin/pip install -q '.[all]' && .venv/bin/runstream demo"
TEST = "python3 -m venv .venv && .venv/bin/pip install -q -e '.[dev]' && .venv/bin/python -m pytest -q"


def shell_lines(readme: str) -> list[str]:
    """The lines of the README's shell blocks."""
    blocks = re.findall(r"^```(?:bash|sh|console)\n(.*?)^```", readme, re.DOTALL | re.MULTILINE)
    return [line.strip() for block in blocks for line in block.splitlines()]


@pytest.mark.parametrize("line", [RUN, TEST])
def test_the_readme_has_one_line_to_run_and_one_to_test(line: str) -> None:
    assert line in shell_lines((ROOT / "README.md").read_text())


def test_ci_calls_the_readmes_test_line_and_then_the_checks() -> None:
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert lines[lines.index(TEST) + 1] == "bash scripts/check"


@pytest.mark.parametrize("script", [".ci/run", "scripts/check"])
def test_scripts_are_bash_that_stops_at_the_first_failure(script: str) -> None:
    assert "set -euo pipefail" in (ROOT / script).read_text().splitlines()
    subprocess.run(["bash", "-n", str(ROOT / script)], check=True)
