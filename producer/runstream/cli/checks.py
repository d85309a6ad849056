"""What the commands of the worker and the gateway check alike: what they need is installed, and their options."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from importlib.util import find_spec

from runstream.cli.exits import CommandError
from runstream.install import install_command


def with_extra(
    run: Callable[[argparse.Namespace], int], extra: str, needed: Sequence[str]
) -> Callable[[argparse.Namespace], int]:
    """A command, behind a look whether what it imports is installed.

    Args:
        run: the command.
        extra: what installs it.
        needed: the modules.
    """

    def checked(args: argparse.Namespace) -> int:
        missing = [name for name in needed if find_spec(name) is None]
        if missing:
            raise CommandError(f"{missing[0]} is not installed; {install_command(extra)}")
        return run(args)

    return checked


def port(text: str) -> int:
    """The number of a port, of an option.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} must be a port, 0 to 65535")
    return int(text)
