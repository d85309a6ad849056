"""Where output goes: lines for people in a terminal, lines of JSON in a pipe."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import unicodedata
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

Style: TypeAlias = Literal["bold", "dim", "red", "green", "yellow", "cyan"]

_CODES: dict[Style, str] = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class Output:
    """What a command writes with.

    Attributes:
        pretty: for people; otherwise lines of JSON.
        terminal: whether standard output is one.
        colour: whether it takes ANSI styles.
        width: the columns of a line.
    """

    pretty: bool
    terminal: bool = False
    colour: bool = False
    width: int = 80

    @classmethod
    def choose(cls, *, as_json: bool) -> Output:
        """Pretty in a terminal, JSON in a pipe or where it was asked for."""
        terminal = sys.stdout.isatty()
        columns = shutil.get_terminal_size().columns
        return cls(terminal and not as_json, terminal, terminal and _takes_colour(), columns)

    def line(self, text: str = "") -> None:
        """Write a line, at once."""
        self.write(f"{text}\n")

    def write(self, text: str) -> None:
        """Write text, at once: whoever reads the pipe is following a run."""
        sys.stdout.write(text)
        sys.stdout.flush()

    def json(self, value: Any) -> None:
        """Write a value as one line of JSON."""
        self.line(json.dumps(value, ensure_ascii=False, separators=(",", ":")))

    def note(self, text: str) -> None:
        """Tell people something beside the output."""
        sys.stderr.write(f"runstream: {text}\n")
        sys.stderr.flush()

    def styled(self, text: str, *styles: Style) -> str:
        """The text in these styles, where the terminal takes them."""
        codes = ";".join(_CODES[style] for style in styles)
        return f"\x1b[{codes}m{text}\x1b[0m" if codes and self.colour else text


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
