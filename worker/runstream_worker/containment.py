"""Keeping what graphs do to the process from its other runs."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Coroutine, Generator
from contextlib import suppress
from typing import Any, NoReturn

from runstream.errors import RunstreamError

_LAST_CHANCE = 1.0

_logger = logging.getLogger("runstream.worker")


class GraphExited(RunstreamError):
    """A graph asked that the process end, with `sys.exit()` or KeyboardInterrupt."""


def contain_exits(loop: asyncio.AbstractEventLoop) -> None:
    """Turn what ends a process into an error of the task that raised it, for every task made from now on.

    asyncio lets SystemExit and KeyboardInterrupt out of any task, past whoever waits for the task, so that a tool that
    calls `sys.exit()`, as command-line code does, would end all runs of its worker; and the next worker's after it.
    """
    loop.set_task_factory(_contained_task)


def _contained_task(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any] | Generator[Any, None, Any], **options: Any
) -> asyncio.Task[Any]:
    return asyncio.Task(_contained(work), loop=loop, **options)


async def _contained(work: Any) -> Any:
    try:
        return await work
    except (SystemExit, KeyboardInterrupt) as error:
        told = f"sys.exit({error.code!r})" if isinstance(error, SystemExit) else "KeyboardInterrupt"
        raise GraphExited(f"{told} in a graph: a run cannot end its worker") from error


async def leave_for_sure(code: int) -> None:
    """End the process, if something that graphs left behind would keep it from ending by itself.

    A node that swallows its cancellation, or a thread that is busy, would be waited for without end.
    """
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        for task in others:
            task.cancel()
        _, others = await asyncio.wait(others, timeout=_LAST_CHANCE)
    threads = [
        thread for thread in threading.enumerate() if thread is not threading.main_thread() and not thread.daemon
    ]
    busy = len(others) + len([thread for thread in threads if _is_at_work(thread)])
    if busy:
        _logger.warning("leaving behind what does not end: tasks and threads at work: %d", busy)
        _exit_now(code)


def _is_at_work(thread: threading.Thread) -> bool:
    """Whether a thread does something; one of a pool that waits is in `concurrent.futures`' own worker loop."""
    frame = sys._current_frames().get(thread.ident or -1)  # noqa: SLF001 - documented, for this use
    return frame is not None and frame.f_code.co_name != "_worker"


def _exit_now(code: int) -> NoReturn:
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, AttributeError, ValueError):  # closed, full, or without a reader
            stream.flush()
    os._exit(code)
