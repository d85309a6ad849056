"""What the demo tells, line by line."""

from __future__ import annotations

from runstream.cli.terminal import Output, Style, clipped, printable
from runstream.fold import Fold
from runstream.model import Status
from runstream_worker.commands.demo.screen import wrapped

_LABEL_WIDTH = 8
_INDENT = _LABEL_WIDTH + 5


class Story:
    """Lines with a mark and a label each; none where the output is for programs."""

    def __init__(self, output: Output) -> None:
        self.output = output

    def step(self, label: str, told: str, *, ok: bool | None = True) -> None:
        """Say a line of the story, and whether that is well; None is for what is to do next.

        Nothing is cut off: a terminal gets as many lines as it needs, a pipe gets one.
        """
        output = self.output
        if not output.pretty:
            return
        told = _in_a_line(told)
        mark = {True: output.styled("✓", "green"), False: output.styled("✗", "red"), None: " "}[ok]
        first, *others = wrapped(told, self._room) if output.terminal else [told]
        style: tuple[Style, ...] = ("bold",) if ok is None else ()
        output.line(f"{self._erase}  {mark} {self._label(label)} {output.styled(first, *style)}")
        for line in others:
            output.line(f"{' ' * _INDENT}{line}")

    def passing(self, label: str, told: str) -> None:
        """Say a line that gives way to the next; a pipe does without."""
        output = self.output
        if output.pretty and output.terminal:
            output.write(f"{self._erase}    {self._label(label)} {clipped(_in_a_line(told), self._room)}")

    def end(self, run_id: str, fold: Fold) -> None:
        """Say how a run has ended."""
        because = f": {fold.error.type}: {fold.error.message}" if fold.error else ""
        self.step("run", f"{run_id}: {fold.status}{because}", ok=fold.status is Status.SUCCESS)

    @property
    def _room(self) -> int:
        return max(self.output.width - _INDENT - 1, _LABEL_WIDTH)

    @property
    def _erase(self) -> str:
        """Takes a passing line away."""
        return "\r\x1b[K" if self.output.terminal else ""

    def _label(self, label: str) -> str:
        return self.output.styled(label.ljust(_LABEL_WIDTH), "dim")


def _in_a_line(text: str) -> str:
    return " ".join(printable(text).split("\n"))
