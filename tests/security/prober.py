"""Ask a gateway's `/ok` every 20 ms, and print what it was like when standard input closes.

A program of its own, which imports nothing of ours: what an attacker computes in the test's process must not delay it.

    python prober.py HOST PORT PID

prints one line of JSON, with the fields of `tests.security.probing.Figures`.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_INTERVAL = 0.02
_TIMEOUT = 60.0
_LOOKS = 0.005
_PAGE = os.sysconf("SC_PAGE_SIZE")
_ASK = b"GET /ok?check_db=false HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n"


class Spent(NamedTuple):
    """Seconds that threads have spent: running, and ready to run while others had the processors."""

    running: float
    waiting: float


class Schedule:
    """What Linux counts of threads.

    Args:
        threads: their folders, such as those of `/proc/PID/task`, when asked.
    """

    def __init__(self, threads: Callable[[], Iterable[Path]]) -> None:
        self._threads = threads
        self._known: dict[Path, tuple[int, int]] = {}
        self.since_last()

    @classmethod
    def of_process(cls, pid: int) -> Schedule:
        """Of all threads of a process."""
        return cls(Path(f"/proc/{pid}/task").iterdir)

    def since_last(self) -> Spent:
        """Return what they have spent since this was asked last."""
        known, self._known = self._known, {}
        running = waiting = 0
        for thread in self._threads():
            # One that ends meanwhile has spent as much as is known.
            with suppress(FileNotFoundError, ProcessLookupError):
                ran, waited = self._known[thread] = _counted(thread)
                before = known.get(thread, (0, 0))
                running, waiting = running + ran - before[0], waiting + waited - before[1]
        return Spent(running / 1e9, waiting / 1e9)


def _counted(thread: Path) -> tuple[int, int]:
    ran, waited, _ = (thread / "schedstat").read_text().split()
    return int(ran), int(waited)


def blamed(wall: float, gateway: Spent, prober: Spent) -> float:
    """Return how much of the time between two answers the gateway is to blame for."""
    # Where two of its threads were ready at once, both have waited: what it has computed counts in any case.
    return max(wall - gateway.waiting - prober.waiting, min(gateway.running, wall - prober.waiting))


def resident(pid: int) -> int:
    """Bytes of memory that a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE


def ask(host: str, port: int) -> bool:
    """Whether `/ok` answers with 200, on a connection of its own."""
    try:
        with socket.create_connection((host, port), timeout=_TIMEOUT) as connection:
            connection.sendall(_ASK)
            answer = b""
            while part := connection.recv(4096):
                answer += part
    except OSError:
        return False
    return answer.startswith(b"HTTP/1.1 200 ")


def main() -> None:
    """Probe until standard input closes."""
    host, port, pid = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    over = threading.Event()

    def wait_for_end() -> None:
        sys.stdin.read()
        over.set()

    threading.Thread(target=wait_for_end, daemon=True).start()
    before = peak = resident(pid)

    def look() -> None:
        nonlocal peak
        while not over.is_set():
            peak = max(peak, resident(pid))
            time.sleep(_LOOKS)

    ask(host, port)
    looking = threading.Thread(target=look)
    looking.start()
    probes = failed = 0
    silence = silence_wall = 0.0
    own = Path(f"/proc/self/task/{threading.get_native_id()}")
    of_gateway, of_prober = Schedule.of_process(pid), Schedule(lambda: [own])
    answered = time.monotonic()
    print("ready", flush=True)
    while not over.is_set():
        time.sleep(_INTERVAL)
        probes, failed = probes + 1, failed + (not ask(host, port))
        now = time.monotonic()
        silence_wall = max(silence_wall, now - answered)
        silence = max(silence, blamed(now - answered, of_gateway.since_last(), of_prober.since_last()))
        answered = now
    looking.join()
    figures = {
        "probes": probes, "failed": failed, "silence": silence, "silence_wall": silence_wall,
        "before": before, "peak": peak, "after": resident(pid),
    }  # fmt: skip
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
