"""What commands that talk to Redis have in common: the client, and an end when nobody reads the output any more."""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import stat
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from runstream.cli.terminal import Output, check_open
from runstream.client import Client
from runstream.settings import ClientSettings, namespace_from_environment, redis_url_from_environment


def redis_url(args: argparse.Namespace) -> str:
    """The Redis that the command is to use: `--redis`, else the environment's, else the local one."""
    return args.redis or redis_url_from_environment()


def namespace(args: argparse.Namespace) -> str:
    """The namespace that the command is to use: `--namespace`, else the environment's, else `runstream`."""
    return args.namespace or namespace_from_environment()


def with_client(
    command: Callable[[argparse.Namespace, Client, Output], Coroutine[Any, Any, int]],
    *,
    before: Callable[[argparse.Namespace], None] | None = None,
) -> Callable[[argparse.Namespace], int]:
    """Make a command of a coroutine that takes a client which is known to reach Redis.

    Args:
        command: the coroutine.
        before: is called before the event loop runs. What waits for standard input belongs there: in the loop, Ctrl-C
            would only cancel a task, and the task would not notice until the input has come.
    """

    def run(args: argparse.Namespace) -> int:
        check_open()
        if before is not None:
            before(args)
        return asyncio.run(_run(command, args))

    return run


async def _run(
    command: Callable[[argparse.Namespace, Client, Output], Coroutine[Any, Any, int]], args: argparse.Namespace
) -> int:
    settings = ClientSettings(namespace=namespace(args))
    async with Client(redis_url(args), settings=settings) as client:
        # A tail waits a minute for a Redis that goes away; one that was never there is told at once.
        await client.ping()
        return await while_somebody_reads(command(args, client, Output.choose(as_json=args.json)))


async def while_somebody_reads(work: Awaitable[int]) -> int:
    """Do the work, unless the reader of standard output's pipe leaves before it is done.

    A command that waits for events writes nothing meanwhile, so it would not notice by writing.

    Raises:
        BrokenPipeError: the reader has left.
    """
    pipe = _pipe_of_stdout()
    task = asyncio.ensure_future(work)
    if pipe is None:
        return await task
    left = asyncio.Event()

    def leave() -> None:
        left.set()
        loop.remove_reader(pipe)
        task.cancel()

    loop = asyncio.get_running_loop()
    # The writing end of a pipe becomes "readable" when its reading end is closed.
    loop.add_reader(pipe, leave)
    try:
        return await task
    except asyncio.CancelledError:
        if left.is_set():
            raise BrokenPipeError from None
        raise
    finally:
        loop.remove_reader(pipe)


def _pipe_of_stdout() -> int | None:
    try:
        number = sys.stdout.fileno()
    except io.UnsupportedOperation:  # not a file, as in a test that captures it
        return None
    return number if stat.S_ISFIFO(os.fstat(number).st_mode) else None
