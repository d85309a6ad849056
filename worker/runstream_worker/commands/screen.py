"""What the demo's readers hear, side by side: in columns that are drawn again and again, or line by line."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from itertools import zip_longest
from typing import Protocol

from runstream.cli.terminal import Output, cells, clipped, padded

_GAP = "   "
_MARGIN = "  "
_NARROWEST = 60
_UP = "\x1b[{}F"
_ERASE_BELOW = "\x1b[J"
_HIDE_CURSOR, _SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"


def screen_for(output: Output, labels: Sequence[str]) -> Screen:
    """Columns where they can be drawn and drawn again, else lines."""
    can_draw = output.terminal and output.colour and output.width >= _NARROWEST
    return Columns(output, labels) if can_draw else Lines(output, labels)


class Screen(Protocol):
    """Shows the text of several readers as it grows."""

    def add(self, label: str, text: str) -> None:
        """Take more text of a reader."""

    def close(self) -> None:
        """Show what is left, for good."""


class Columns:
    """A column for each reader. While it grows, the terminal shows its end; in the end, all of it."""

    def __init__(self, output: Output, labels: Sequence[str]) -> None:
        self._output = output
        self._texts = dict.fromkeys(labels, "")
        self._width = (output.width - len(_MARGIN) - len(_GAP) * (len(labels) - 1)) // len(labels) - 1
        self._drawn = 0
        output.write(_HIDE_CURSOR)
        output.line(output.styled(self._line(labels), "bold"))
        output.line(output.styled(self._line(["─" * self._width for _ in labels]), "dim"))

    def add(self, label: str, text: str) -> None:
        """Take more text of a reader."""
        if text:
            self._texts[label] += text
            self._draw(shutil.get_terminal_size().lines - 4)

    def close(self) -> None:
        """Show all of it."""
        self._draw(None)
        self._output.write(_SHOW_CURSOR)

    def _draw(self, limit: int | None) -> None:
        columns = [wrapped(text, self._width) for text in self._texts.values()]
        rows = list(zip_longest(*columns, fillvalue=""))
        if limit is not None:
            rows = rows[-limit:]
        up = _UP.format(self._drawn) if self._drawn else ""
        # In one write, so that nobody sees it half drawn.
        self._output.write(f"{up}{_ERASE_BELOW}" + "".join(self._line(row) + "\n" for row in rows))
        self._drawn = len(rows)

    def _line(self, row: Sequence[str]) -> str:
        return _MARGIN + _GAP.join(padded(clipped(part, self._width), self._width) for part in row).rstrip()


class Lines:
    """Line by line, each with its reader's letter, for what is no terminal, or a narrow one."""

    def __init__(self, output: Output, labels: Sequence[str]) -> None:
        self._output = output
        self._pending = dict.fromkeys(labels, "")
        for label in labels:
            output.line(f"{_MARGIN}{label}")
        output.line()

    def add(self, label: str, text: str) -> None:
        """Take more text of a reader; write the lines that are full."""
        *full, rest = wrapped(self._pending[label] + text, self._output.width - 6) or [""]
        self._pending[label] = rest
        for line in full:
            self._output.line(f"{_MARGIN}{label[0]} │ {line}")

    def close(self) -> None:
        """Write the lines that are not full."""
        for label, rest in self._pending.items():
            if rest.strip():
                self._output.line(f"{_MARGIN}{label[0]} │ {rest.strip()}")


def wrapped(text: str, width: int) -> list[str]:
    """The text in lines of at most `width` columns, broken between words where possible."""
    return [line for paragraph in text.split("\n") for line in _wrapped_paragraph(paragraph, width)]


def _wrapped_paragraph(text: str, width: int) -> list[str]:
    lines, line = [], ""
    for word in text.split(" "):
        longer = f"{line} {word}" if line else word
        if cells(longer) <= width:
            line = longer
            continue
        if line:
            lines.append(line)
        *full, line = _pieces(word, width)
        lines += full
    return [*lines, line]


def _pieces(word: str, width: int) -> list[str]:
    """A word that may be longer than a line, cut to the width."""
    pieces = [""]
    for character in word:
        if cells(pieces[-1] + character) > width:
            pieces.append("")
        pieces[-1] += character
    return pieces
