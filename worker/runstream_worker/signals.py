"""SIGINT and SIGTERM, heard also while the event loop is blocked.

asyncio and arq handle a signal in the loop, so a graph that blocks the loop blocks them, too. Here the interpreter's
own handler, which runs at once and needs neither the loop nor a bytecode of the main thread, writes the number of the
signal into a socket. A thread reads it, passes it on to the loop, and looks whether the loop hears it. One that does
not is cut off: with the second signal, or when its time to leave is over. The process then ends as one that the signal
has ended; the leases of a worker expire, and others go on with its runs.

(Code in C that holds the interpreter's lock keeps everything from running but SIGKILL.)
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

NUMBERS = (signal.SIGINT, signal.SIGTERM)
HEARD_WITHIN = 1.0
"""Seconds within which the loop has to hear a second signal."""
ENDED_BY = 128
"""Added to the number of a signal, the exit code of a process that it has ended, as shells have it."""
_TICK = 0.05


@contextmanager
def signals_to(call: Callable[[signal.Signals], None], *, patience: float | None = None) -> Iterator[None]:
    """Have SIGINT and SIGTERM call a function, in the running loop, until the end of the block.

    Where the loop does not hear a second signal within a second, the process ends with 128 and the signal's number.

    Args:
        call: is given the signal.
        patience: seconds after the first signal when the process ends, too, if the loop is blocked by then; it is not
            looked after when left out.
    """
    loop = asyncio.get_running_loop()
    watch = _Watch(loop, call, patience)
    for number in NUMBERS:
        # Should something else that handles signals take the socket's place, the loop still hears them.
        loop.add_signal_handler(number, call, number)
    before = signal.set_wakeup_fd(watch.descriptor, warn_on_full_buffer=False)
    handlers = {number: signal.signal(number, _heard_elsewhere) for number in NUMBERS}
    watch.start()
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(before)
        watch.stop()
        for number in NUMBERS:
            loop.remove_signal_handler(number)


def _heard_elsewhere(number: int, frame: object) -> None:
    """Take the place of the default handler; the watch reads the signal from its socket."""


class _Watch:
    """The thread that hears signals.

    Args:
        loop: what they are passed on to.
        call: is called there with each.
        patience: see `signals_to`.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, call: Callable[[signal.Signals], None], patience: float | None
    ) -> None:
        self._loop = loop
        self._call = call
        self._patience = patience
        self._ours, self._theirs = socket.socketpair()
        self._ours.settimeout(1.0)
        self._theirs.setblocking(False)
        self._over = threading.Event()
        self._count = 0
        self._last = signal.SIGTERM
        self._deadline: float | None = None
        self._thread = threading.Thread(target=self._run, name="runstream-signals", daemon=True)

    @property
    def descriptor(self) -> int:
        """Where the interpreter writes the numbers of signals."""
        return self._theirs.fileno()

    def start(self) -> None:
        """Begin to hear."""
        self._thread.start()

    def stop(self) -> None:
        """Hear nothing any more."""
        self._over.set()
        with suppress(OSError):
            self._theirs.send(b"\0")
        self._thread.join(_TICK * 4)
        self._theirs.close()
        self._ours.close()

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                numbers = self._ours.recv(16)
            except TimeoutError:
                numbers = b""
            except OSError:
                return
            for number in numbers:
                if number in NUMBERS:
                    self._hear(signal.Signals(number))
            if self._deadline is not None and time.monotonic() > self._deadline:
                self._pass_on(None)

    def _hear(self, number: signal.Signals) -> None:
        self._count += 1
        self._last = number
        if self._count == 1:
            if self._patience is not None:
                self._deadline = time.monotonic() + self._patience
            with suppress(RuntimeError):  # The loop has ended meanwhile.
                self._loop.call_soon_threadsafe(self._call, number)
        else:
            self._pass_on(number)

    def _pass_on(self, number: signal.Signals | None) -> None:
        """Have the loop hear a signal, or only that it is asked; end the process if it does not."""
        heard = threading.Event()

        def hear() -> None:
            heard.set()
            if number is not None:
                self._call(number)

        with suppress(RuntimeError):  # The loop has ended meanwhile.
            self._loop.call_soon_threadsafe(hear)
            until = time.monotonic() + HEARD_WITHIN
            while not heard.wait(_TICK):
                if self._over.is_set():
                    return
                if time.monotonic() > until:
                    self._cut_off()

    def _cut_off(self) -> NoReturn:
        # Not by logging: whatever blocks the loop may hold a lock of it.
        line = f"the event loop is blocked and does not hear {self._last.name}: this process ends now\n"
        with suppress(OSError):
            os.write(2, line.encode())
        os._exit(ENDED_BY + self._last)
