"""fakeredis as a server process: what stands in for Redis where none is installed.

Run as a script by the guard of `runstream.embedded`; the argument is a JSON file with `port` and `password`.

fakeredis' TCP server (2.40) has three faults that make a client lose its connection, and that are repaired here:
it hangs up after every error reply, it writes the line breaks of a Lua traceback into the error reply, which the
protocol forbids, and it gives up when a reply does not fit in the socket's buffer. It also accepts no more than five
connections at once, checks a password without asking for one, and has no INFO, without which no arq worker starts.

Not repaired: a client that leaves while it blocks in BLPOP still takes the next element of its list with it.
"""

from __future__ import annotations

import json
import select
import socket
import sys
from pathlib import Path
from typing import Any

import redis
from fakeredis import TcpFakeServer

_BACKLOG = 128
_INFO = b"# Server\r\nredis_version:8.0.0\r\nredis_mode:standalone\r\n"


class _PatientSocket(socket.socket):
    """A non-blocking socket whose `sendall` waits for the peer to read, as a blocking one's does."""

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        """Send all of `data`, however long the peer takes."""
        unsent = memoryview(data)
        while unsent:
            try:
                unsent = unsent[self.send(unsent, flags) :]
            except BlockingIOError:
                select.select([], [self], [])


class _Server(TcpFakeServer):
    """fakeredis' TCP server, repaired."""

    request_queue_size = _BACKLOG

    def __init__(self, port: int, password: str) -> None:
        super().__init__(("127.0.0.1", port))
        # Asked of nobody, but a client that gives it learns that this is its server and not a stranger on the port.
        self.fake_server.config[b"requirepass"] = password.encode()
        # The handler's class has no public name.
        base: Any = self.RequestHandlerClass
        self.RequestHandlerClass = type("_Handler", (base,), {"setup": _setup_that_replies_errors(base)})

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection."""
        connection, address = super().get_request()
        return _PatientSocket(fileno=connection.detach()), address


def _setup_that_replies_errors(base: Any) -> Any:
    """The handler's `setup`, after which errors are replies like any other instead of the connection's end."""

    def setup(handler: Any) -> None:
        base.setup(handler)
        read_response = handler.current_client.read_response

        def read_response_or_error(**options: Any) -> Any:
            try:
                return read_response(**options)
            except redis.ResponseError as error:
                if str(error).startswith("unknown command 'info'"):
                    return _INFO
                error.args = (" ".join(str(error).split()),)
                return error

        handler.current_client.read_response = read_response_or_error

    return setup


def main() -> None:
    """Serve until terminated."""
    settings = json.loads(Path(sys.argv[1]).read_text())
    with _Server(settings["port"], settings["password"]) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
