"""Where output goes: lines for people in a terminal, lines of JSON in a pipe."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import shutil
import sys
import unicodedata
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from runstream.cli.exits import CommandError

Style: TypeAlias = Literal["bold", "dim", "red", "green", "yellow", "cyan"]

_CODES: dict[Style, str] = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
_logger = logging.getLogger("runstream.output")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class Output:
    """What a command writes with.

    Attributes:
        pretty: for people; otherwise lines of JSON.
        terminal: whether standard output is one.
        colour: whether it takes ANSI styles.
        width: the columns of a line.
        optional: whether the command does its work without a standard output, too, such as a worker that announces
            itself there; then a failure to write is logged, once.
    """

    pretty: bool
    terminal: bool = False
    colour: bool = False
    width: int = 80
    optional: bool = False

    @classmethod
    def choose(cls, *, as_json: bool, optional: bool = False) -> Output:
        """Pretty in a terminal, JSON in a pipe or where it was asked for."""
        terminal = is_open() and sys.stdout.isatty()
        columns = shutil.get_terminal_size().columns
        return cls(terminal and not as_json, terminal, terminal and _takes_colour(), columns, optional)

    def line(self, text: str = "") -> None:
        """Write a line, at once."""
        self.write(f"{text}\n")

    def write(self, text: str) -> None:
        """Write text, at once: the reader of the pipe is following a run.

        Raises:
            BrokenPipeError: the reader of the pipe has left.
            CommandError: standard output is closed, or cannot be written to for another reason.
        """
        try:
            check_open()
            sys.stdout.write(text)
            sys.stdout.flush()
        except (OSError, CommandError) as error:
            give_up_stdout()
            if self.optional:
                _logger.warning("going on without standard output: %s", error)
            elif isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
                raise CommandError(f"cannot write to standard output: {error.strerror or error}") from error
            else:
                raise

    def json(self, value: Any) -> None:
        """Write a value as one line of JSON."""
        self.line(json.dumps(value, ensure_ascii=False, separators=(",", ":")))

    def note(self, text: str) -> None:
        """Tell people something beside the output."""
        complain(f"runstream: {text}")

    def styled(self, text: str, *styles: Style) -> str:
        """The text in these styles, where the terminal takes them."""
        codes = ";".join(_CODES[style] for style in styles)
        return f"\x1b[{codes}m{text}\x1b[0m" if codes and self.colour else text


def is_open() -> bool:
    """Whether there is a standard output."""
    return sys.stdout is not None and not sys.stdout.closed


def check_open() -> None:
    """Look whether there is a standard output, before anything is done whose result would be shown there.

    Raises:
        CommandError: it was closed when the command began.
    """
    if not is_open():
        raise CommandError(f"cannot write to standard output: {os.strerror(errno.EBADF)}")


def complain(line: str) -> None:
    """Write a line to standard error; where that cannot be written to, nobody is there to be told."""
    with suppress(OSError, AttributeError, ValueError):
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


def give_up_stdout() -> None:
    """Send what is still buffered, and what is written later, to nowhere.

    Otherwise the interpreter fails to write it when it ends, complains, and replaces the exit code.
    """
    with suppress(OSError, AttributeError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        sys.stdout.flush()


def flush_stdout() -> None:
    """Write what is buffered, such as a help text, which argparse leaves to the end of the interpreter.

    Raises:
        BrokenPipeError: the reader of the pipe has left.
        CommandError: it cannot be written for another reason.
    """
    if is_open():
        Output(pretty=False).write("")


def occupy_standard_streams() -> None:
    """Have the descriptors 0 to 2 lead nowhere where they are closed.

    The next file or socket would get such a number, and a library that writes to standard error would write into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it gets the lowest number that is free


def _takes_colour() -> bool:
    """Whether colours are welcome (https://no-color.org)."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def printable(text: str) -> str:
    """The text without control characters: what a model says must not steer the terminal."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def cells(text: str) -> int:
    """How many columns of a terminal the text takes."""
    return sum(_cells(character) for character in text)


def _cells(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Cf", "Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


def clipped(text: str, width: int) -> str:
    """The text in one line of at most `width` columns, with an ellipsis where it was longer."""
    text = " ".join(printable(text).split("\n"))
    if cells(text) <= width:
        return text
    kept, used = [], 1
    for character in text:
        used += _cells(character)
        if used > width:
            break
        kept.append(character)
    return f"{''.join(kept)}…"


def padded(text: str, width: int) -> str:
    """The text, filled with spaces up to `width` columns."""
    return text + " " * (width - cells(text))
