"""`python -m tests.chaos`: disturb a fleet of workers for a while, judge every run, print figures and violations."""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.chaos.harness import Chaos, let_loose


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long faults happen (60)")
    parser.add_argument("--seed", type=int, help="decides which; any when left out, and told")
    parser.add_argument("--workers", type=int, default=4, help="worker processes (4)")
    parser.add_argument("--conversations", type=int, default=12, help="threads at work at a time (12)")
    parser.add_argument("--every", type=float, default=1.0, help="seconds between two faults, on average (1)")
    parser.add_argument("--lease", type=float, default=3.0, help="of the workers, in seconds (3)")
    parser.add_argument("--power-cuts", action="store_true", help="let Redis lose what it has acknowledged, too")
    parser.add_argument("--failovers", action="store_true", help="fail over to a replica that is behind, too")
    parser.add_argument(
        "--appendfsync", choices=("always", "everysec", "no"), default="always", help="of Redis (always)"
    )
    parser.add_argument("--busy", type=int, default=0, metavar="N", help="processes that do nothing but compute (0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    parser.add_argument("--folder", type=Path, help="keep logs and faulty histories here")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 1 when something was violated."""
    arguments = _arguments(argv)
    seed = secrets.randbelow(1_000_000) if arguments.seed is None else arguments.seed
    chaos = Chaos(
        seed,
        arguments.seconds,
        workers=arguments.workers,
        conversations=arguments.conversations,
        every=arguments.every,
        lease=arguments.lease,
        power_cuts=arguments.power_cuts,
        failovers=arguments.failovers,
        appendfsync=arguments.appendfsync,
        busy=arguments.busy,
    )
    print(chaos, flush=True)
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="runstream-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    report = asyncio.run(let_loose(chaos, folder, tell=True))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report.as_json(), indent=2) + "\n", "utf-8")
    for name, value in report.figures.items():
        print(f"{name}: {value}")
    for told in report.complaints:
        print(f"complaint: {told}")
    for told in report.violations:
        print(f"VIOLATION: {told}")
    print(f"logs are in {folder}")
    return int(bool(report.violations))


if __name__ == "__main__":
    sys.exit(main())
