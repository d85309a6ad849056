"""Starts worker processes at once: imports what they need, and forks one for every line that it reads.

    {"settings": {...}, "log": "path"}       a worker with these settings, which writes its log there

and tells, a line each, what becomes of them:

    {"started": pid}   {"ready": pid, "worker": id}   {"ended": pid, "code": exit code, negative for a signal}

It ends with its standard input, and the workers end with it, however it ends. To import LangGraph takes two seconds of
processor time, which a machine that kills a worker every second does not have; what is forked runs the very code of
`runstream worker`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.chaos.graphs import FAMILIES

from runstream_worker.app import serve_process
from runstream_worker.collector import tune_collector
from runstream_worker.graphs import graph_source
from runstream_worker.settings import WorkerSettings

_SOURCES = {name: graph_source(name, make()) for name, make in FAMILIES.items()}


def main() -> None:
    """Fork, until there is nobody left to fork for."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    signal.set_wakeup_fd(wake)
    # Ctrl-C is for the process that has started this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    lifeline = os.pipe()
    workers: set[int] = set()
    orders = b""
    while True:
        readable, _, _ = select.select([0, woken], [], [])
        if woken in readable:
            os.read(woken, 4096)
            workers -= _told_of_ends()
        if 0 in readable:
            read = os.read(0, 1 << 16)
            if not read:
                break
            orders += read
            while b"\n" in orders:
                order, orders = orders.split(b"\n", 1)
                workers.add(_fork(json.loads(order), lifeline[0], (woken, wake, lifeline[1])))
    for pid in workers:
        os.kill(pid, signal.SIGKILL)


def _told_of_ends() -> set[int]:
    ended: set[int] = set()
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        _tell(ended=pid, code=os.waitstatus_to_exitcode(status))
        ended.add(pid)


def _fork(order: dict[str, Any], lifeline: int, pipes: Sequence[int]) -> int:
    pid = os.fork()
    if pid:
        _tell(started=pid)
        return pid
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    for pipe in (0, *pipes):
        os.close(pipe)
    threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()
    try:
        _work(order)
    except BaseException:  # noqa: BLE001 - nothing may get past here: it is the parent's code that would go on
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _end_with(lifeline: int) -> None:
    """End when nobody has the other end of this pipe any more."""
    os.read(lifeline, 1)
    os._exit(1)


def _work(order: dict[str, Any]) -> None:
    with Path(order["log"]).open("a", buffering=1) as log:
        os.dup2(log.fileno(), 2)
    # What the graphs print must not be taken for what this process tells.
    told = os.dup(1)
    os.dup2(2, 1)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)-7s %(message)s", stream=sys.stderr)
    logging.getLogger("arq").setLevel(logging.WARNING)

    async def ready(ctx: dict[Any, Any]) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, _tell_what_is_going_on)
        os.write(told, json.dumps({"ready": os.getpid(), "worker": ctx["runner"].worker_id}).encode() + b"\n")

    tune_collector()
    asyncio.run(serve_process(_SOURCES, WorkerSettings(**order["settings"]), on_startup=ready))


def _tell_what_is_going_on() -> None:
    """Write down where every task of the process is: for whoever wonders why it does not end."""
    for task in asyncio.all_tasks():
        task.print_stack(file=sys.stderr)


def _tell(**what: int) -> None:
    os.write(1, json.dumps(what).encode() + b"\n")


if __name__ == "__main__":
    main()
