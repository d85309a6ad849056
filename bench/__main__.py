"""`python -m bench`: measure, print a table, write JSON."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.api import http
from bench.checkpoints import checkpoints
from bench.figure import Figure, Ground, Measurement
from bench.fleet import fleet
from bench.latency import latency
from bench.machine import machine, versions
from bench.memory import memory
from bench.noop import noop
from bench.pickup import pickup
from bench.tailing import tailing
from bench.takeover import takeover
from bench.throughput import throughput
from runstream.embedded import EmbeddedRedis

FIGURES: Mapping[str, Figure] = {
    "fleet": fleet,
    "pickup": pickup,
    "throughput": throughput,
    "tailing": tailing,
    "latency": latency,
    "memory": memory,
    "noop": noop,
    "checkpoints": checkpoints,
    "takeover": takeover,
    "http": http,
}
_HEAD = ("metric", "value", "unit", "target", "ok?")


async def measure(
    names: Sequence[str], redis_url: str, *, quick: bool, others: Sequence[tuple[str, str]] = ()
) -> dict[str, Any]:
    """Measure these figures, one after the other; the result is what `--json` writes."""
    figures: dict[str, list[Measurement]] = {}
    for name in names:
        print(f"measuring {name} ...", file=sys.stderr)
        figures[name] = await FIGURES[name](Ground(redis_url, quick, tuple(others)))
    return {
        "quick": quick,
        "machine": machine(),
        "versions": await versions(redis_url),
        "figures": {name: [row.as_json() for row in rows] for name, rows in figures.items()},
    }


def table(result: Mapping[str, Any]) -> str:
    """The figures as a table in Markdown."""
    rows = [_HEAD, *(_cells(row) for rows in result["figures"].values() for row in rows)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    value = row["value"]
    told = f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"
    ok = {True: "yes", False: "NO", None: ""}[row["ok"]]
    return row["metric"], told, row["unit"], row["target"] or "", ok


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", metavar="NAME", action="append", choices=list(FIGURES), help=", ".join(FIGURES))
    parser.add_argument(
        "--json", metavar="FILE", type=Path, help="write the figures, the machine and the versions here"
    )
    parser.add_argument("--quick", action="store_true", help="measure very little: shows that it works, not how fast")
    parser.add_argument("--redis", metavar="URL", help="a Redis that nobody else uses; one is started when left out")
    parser.add_argument(
        "--url",
        metavar="NAME=URL",
        action="append",
        default=[],
        type=_named_url,
        help="another server of LangGraph's HTTP API with bench/langgraph.json, to be measured beside ours",
    )
    return parser.parse_args(argv)


def _named_url(text: str) -> tuple[str, str]:
    name, equals, url = text.partition("=")
    if not equals or not name or not url.startswith("http"):
        raise argparse.ArgumentTypeError(f"{text!r} must be NAME=http://...")
    return name, url


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 1 when a target was missed."""
    arguments = _arguments(argv)
    with ExitStack() as stack:
        url = arguments.redis or stack.enter_context(EmbeddedRedis()).url
        result = asyncio.run(measure(arguments.only or list(FIGURES), url, quick=arguments.quick, others=arguments.url))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    for title in ("machine", "versions"):
        print(f"{title}: " + ", ".join(f"{name} {value}" for name, value in result[title].items()))
    print(table(result))
    return int(any(row["ok"] is False for rows in result["figures"].values() for row in rows))


if __name__ == "__main__":
    sys.exit(main())
