"""The benchmarks work: a quick run of all of them, and the shape of what they write."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.real_redis  # measures the server's own processor time
ROOT = Path(__file__).parents[2]
FOLDERS = os.pathsep.join(str(ROOT / folder) for folder in ("producer", "worker", "gateway", "."))
UNITS = {
    "fleet": {"runs", "jobs", "s"},
    "pickup": {"ms"},
    "throughput": {"ratio", "tokens/s", "ms/1000 tokens"},
    "tailing": {"connections", "µs/event"},
    "latency": {"ms"},
    "memory": {"bytes/token"},
    "noop": {"runs/s"},
    "checkpoints": {"bytes", "ms"},
    "takeover": {"s", "ms"},
}


@pytest.fixture(scope="module")
def result(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What `python -m bench --quick` writes."""
    file = tmp_path_factory.mktemp("bench") / "figures.json"
    done = _bench("--quick", "--json", str(file), "--redis", redis_url)
    # 1 tells that a target was missed, which a quick run does not decide.
    assert done.returncode in (0, 1), done.stderr
    assert "| metric" in done.stdout, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return json.loads(file.read_text("utf-8"))


def test_it_tells_the_machine_and_the_versions(result: Any) -> None:
    assert set(result) == {"quick", "machine", "versions", "figures"}
    assert result["quick"] is True
    assert set(result["machine"]) == {"cpus", "cpu_model", "memory_gib", "os"}
    expected = {"python", "redis (server)", "redis (package)", "arq", "langgraph", "langchain-core", "runstream"}
    assert expected <= set(result["versions"])


@pytest.mark.parametrize("figure", UNITS)
def test_a_figure(figure: str, result: Any) -> None:
    rows = result["figures"][figure]
    assert {row["unit"] for row in rows} <= UNITS[figure]
    for row in rows:
        assert set(row) == {"metric", "value", "unit", "target", "ok"}
        assert row["value"] > 0
        assert (row["ok"] is None) == (row["target"] is None)


def test_what_does_not_depend_on_speed_meets_its_target(result: Any) -> None:
    rows = [*result["figures"]["fleet"], *result["figures"]["tailing"], *result["figures"]["memory"]]
    assert [row["metric"] for row in rows if row["ok"] is False] == []


def test_an_unknown_figure_is_refused() -> None:
    done = _bench("--only", "speed")
    assert done.returncode == 2
    assert "invalid choice: 'speed'" in done.stderr


def _bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", *arguments]
    environment = {**os.environ, "PYTHONPATH": FOLDERS}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100, check=False)
