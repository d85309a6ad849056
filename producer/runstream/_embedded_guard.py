"""The guard of an embedded Redis: a small process that ends the server when its parent ends, however that ends.

`runstream.embedded` runs this file as a script, with the standard library only. Standard input is the lifeline: the
parent alone holds its other end, so end-of-file there means that the parent is gone, also after `kill -9`, on every
POSIX system. The first line says what to start (JSON: `argv`, `config`), any further line means stop. The guard is in
a session of its own, so that Ctrl-C in the parent's terminal reaches neither it nor the server.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
from io import FileIO
from pathlib import Path
from typing import IO

_KEPT_OUTPUT = 4096  # bytes of the server's last output: enough to tell why it died, and an empty pipe takes them all
_TERMINATE_TIMEOUT = 5.0  # seconds; a Redis in the middle of a long script hears SIGTERM only after it


def main() -> None:
    """Start the server the parent asks for, hold it until either ends, and leave nothing behind.

    The server's last output goes to standard output, in case the parent wants to know why it did not come up.
    """
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _frame: sys.exit(128 + received))
    lifeline = FileIO(0, closefd=False)  # unbuffered: what is not read yet must stay visible to the selector
    request = lifeline.readline()
    if not request.endswith(b"\n"):
        return  # the parent ended before it had asked for anything
    command = json.loads(request)
    with tempfile.TemporaryDirectory(prefix="runstream-redis-") as directory:
        last_output = _serve(command["argv"], command["config"], Path(directory), lifeline)
    with contextlib.suppress(BrokenPipeError):  # the parent is gone: nobody wants to know
        os.write(1, last_output)


def _serve(argv: list[str], config: str, directory: Path, lifeline: FileIO) -> bytes:
    """Run the server in `directory` until it or the parent ends; returns its last output."""
    config_path = directory / "server.conf"  # a file, because the password in an argument would be in everybody's ps
    config_path.write_text(config)
    with subprocess.Popen(  # noqa: S603  what to start comes from runstream.embedded, through a private pipe
        [*argv, str(config_path)],
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as server:
        try:
            return _wait_for_either(lifeline, server.stdout)
        finally:
            _end(server)


def _wait_for_either(lifeline: FileIO, output: IO[bytes] | None) -> bytes:
    """Wait for the end of the parent (or its wish to stop) or of the server's output; returns the last of the output.

    Reading the output all the while also keeps the server from blocking on a full pipe.
    """
    if output is None:
        raise RuntimeError("the server was started without a pipe for its output")
    last_output = b""
    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        selector.register(lifeline, selectors.EVENT_READ)
        while True:
            ready = {key.fd for key, _ in selector.select()}
            if output.fileno() in ready:
                chunk = os.read(output.fileno(), 65536)
                if not chunk:
                    return last_output
                last_output = (last_output + chunk)[-_KEPT_OUTPUT:]
            if lifeline.fileno() in ready:
                return last_output


def _end(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(_TERMINATE_TIMEOUT)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


if __name__ == "__main__":
    main()
