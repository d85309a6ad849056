"""What the demo's readers hear, side by side: in columns that are drawn again and again, or line by line."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Protocol, TypeAlias

from runstream.cli.terminal import Output, Style, cells, clipped, padded

_GAP = "   "
_MARGIN = "  "
_SIDE = "┃"
_NARROWEST = 60
_UP = "\x1b[{}F"
_ERASE_BELOW = "\x1b[J"
_HIDE_CURSOR, _SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"

_Row: TypeAlias = tuple[str, tuple[Style, ...]]


def screen_for(output: Output, labels: Sequence[str]) -> Screen:
    """Columns where they can be drawn and drawn again, else lines; nothing where the output is for programs."""
    if not output.pretty:
        return Nothing()
    can_draw = output.terminal and output.colour and output.width >= _NARROWEST
    return Columns(output, labels) if can_draw else Lines(output, labels)


class Screen(Protocol):
    """Shows the text of several readers as it grows, and is taken back."""

    def show(self, label: str, text: str) -> None:
        """Take the whole text of a reader as it stands now."""

    def tell(self, label: str, notice: str) -> None:
        """Tell a reader something, where its text is now; if text is taken back for it, `show` comes next."""

    def foot(self, told: str, *styles: Style, passing: bool = False) -> None:
        """Say something beneath the readers, in place of what was there; what is `passing` is soon replaced."""

    def close(self) -> None:
        """Show what is left, for good."""


class Nothing:
    """No screen."""

    def show(self, label: str, text: str) -> None:
        """Show nothing."""

    def tell(self, label: str, notice: str) -> None:
        """Tell nothing."""

    def foot(self, told: str, *styles: Style, passing: bool = False) -> None:
        """Say nothing."""

    def close(self) -> None:
        """Leave nothing."""


class Columns:
    """A column for each reader. While it grows, the terminal shows its end; in the end, all of it."""

    def __init__(self, output: Output, labels: Sequence[str]) -> None:
        self._output = output
        self._columns = {label: _Column() for label in labels}
        self._width = (output.width - len(_MARGIN) - len(_GAP) * (len(labels) - 1)) // len(labels) - 1
        self._foot: list[_Row] = []
        self._drawn = 0
        output.write(f"\n{_HIDE_CURSOR}")
        output.line(self._line([(label, ("bold",)) for label in labels]))
        output.line(self._line([("─" * self._width, ("dim",)) for _ in labels]))

    def show(self, label: str, text: str) -> None:
        """Take the whole text of a reader."""
        if self._columns[label].replace(text):
            self._draw_end()

    def tell(self, label: str, notice: str) -> None:
        """Tell it within the column, behind the text that is there."""
        self._columns[label].tell(notice)
        self._draw_end()

    def foot(self, told: str, *styles: Style, passing: bool = False) -> None:  # noqa: ARG002 - all of it is drawn again
        """Say it in lines of their own."""
        self._foot = [("", ()), *((line, styles) for line in wrapped(told, self._output.width - len(_MARGIN) - 1))]
        self._draw_end()

    def close(self) -> None:
        """Show all of it, without what is beneath."""
        self._foot = []
        self._draw(None)
        self._output.write(f"{_SHOW_CURSOR}\n")

    def _draw_end(self) -> None:
        self._draw(shutil.get_terminal_size().lines - 4 - len(self._foot))

    def _draw(self, limit: int | None) -> None:
        columns = [column.rows(self._width) for column in self._columns.values()]
        rows = list(zip_longest(*columns, fillvalue=("", ())))
        if limit is not None:
            rows = rows[-max(limit, 1) :]
        foot = [_MARGIN + self._output.styled(text, *styles) for text, styles in self._foot]
        lines = [*map(self._line, rows), *foot]
        up = _UP.format(self._drawn) if self._drawn else ""
        # In one write, so that nobody sees it half drawn.
        self._output.write(f"{up}{_ERASE_BELOW}" + "".join(f"{line}\n" for line in lines))
        self._drawn = len(lines)

    def _line(self, row: Sequence[_Row]) -> str:
        parts = [(clipped(text, self._width), styles) for text, styles in row]
        filled = [self._output.styled(text, *styles) + padded("", self._width - cells(text)) for text, styles in parts]
        return _MARGIN + _GAP.join(filled).rstrip()


class _Column:
    """The text of a reader, and what it was told in the middle of it."""

    def __init__(self) -> None:
        self._text = ""
        self._notices: list[tuple[int, str]] = []

    def replace(self, text: str) -> bool:
        """Take a text in place of the one before; tell whether it is another one."""
        changed = text != self._text
        self._text = text
        self._notices = [(min(place, len(text)), notice) for place, notice in self._notices]
        return changed

    def tell(self, notice: str) -> None:
        """Put something behind the text that is there."""
        self._notices.append((len(self._text), notice))

    def rows(self, width: int) -> list[_Row]:
        """All of it, in lines of at most `width` columns."""
        return [row for text, styles in self._parts() for row in _rows(text, styles, width)]

    def _parts(self) -> Iterator[_Row]:
        begin = 0
        for place, notice in self._notices:
            yield self._text[begin:place].strip("\n"), ()
            yield notice, ("yellow",)
            begin = place
        yield self._text[begin:].strip("\n"), ()


def _rows(text: str, styles: tuple[Style, ...], width: int) -> list[_Row]:
    if not text:
        return []
    if not styles:
        return [(line, styles) for line in wrapped(text, width)]
    return [(f"{_SIDE} {line}", styles) for line in wrapped(text, width - 2)]


class Lines:
    """Line by line, each with its reader's letter, for what is no terminal, or a narrow one.

    What is written cannot be taken back: the text that stands is written anew.
    """

    def __init__(self, output: Output, labels: Sequence[str]) -> None:
        self._output = output
        self._shown = dict.fromkeys(labels, "")
        self._pending: dict[str, str | None] = dict.fromkeys(labels, "")
        output.line()
        for label in labels:
            output.line(f"{_MARGIN}{label}")
        output.line()

    def show(self, label: str, text: str) -> None:
        """Take the whole text of a reader; write the lines that are full, or all of it where it is another one."""
        shown, pending = self._shown[label], self._pending[label]
        self._shown[label] = text
        grows = text.startswith(shown)
        more = text[len(shown) :] if grows else text
        if pending is None:
            pending, more = "", more.removeprefix("\n")
        *full, self._pending[label] = wrapped(pending + more, self._room)
        for line in full:
            self._write(label, "│", line)
        if not grows:
            self._flush(label)

    def tell(self, label: str, notice: str) -> None:
        """Tell it in a line of its own, behind what has been said."""
        self._flush(label)
        for line in wrapped(notice, self._room) if self._output.terminal else [notice]:
            self._write(label, _SIDE, self._output.styled(line, "yellow"))

    def foot(self, told: str, *styles: Style, passing: bool = False) -> None:
        """Say it in a line, unless it is passing: there is no beneath."""
        if not passing:
            self._output.line(f"{_MARGIN}{self._output.styled(told, *styles)}")

    def close(self) -> None:
        """Write the lines that are not full."""
        for label in self._pending:
            self._flush(label)
        self._output.line()

    @property
    def _room(self) -> int:
        return self._output.width - 6

    def _flush(self, label: str) -> None:
        """Write the line that is not full; None is pending then: a line has ended where the text has no end of one."""
        if rest := (self._pending[label] or "").strip():
            self._write(label, "│", rest)
            self._pending[label] = None

    def _write(self, label: str, side: str, line: str) -> None:
        self._output.line(f"{_MARGIN}{label[0]} {side} {line}")


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
