"""A PostgreSQL of its own, which can be stopped and started again where it was."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg

_OPTIONS = "-c fsync=off -c max_connections=60 -c unix_socket_directories='' -c listen_addresses=127.0.0.1"


def postgres_programs() -> Path | None:
    """The folder of PostgreSQL's programs: on PATH, or where Debian puts them; None where there are none."""
    found = shutil.which("pg_ctl")
    folders = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in folders if (folder / "initdb").exists() and (folder / "pg_ctl").exists()), None)


class PostgresServer:
    """A cluster in a temporary folder, from the beginning to the end of the block.

    Args:
        programs: as `postgres_programs` finds them.
    """

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self._folder = Path(tempfile.mkdtemp(prefix="runstream-postgres-"))
        # PostgreSQL refuses to be run by root.
        self._user = "postgres" if os.geteuid() == 0 else None
        self._port = 0

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self._port}/postgres"

    async def __aenter__(self) -> Self:
        if self._user is not None:
            shutil.chown(self._folder, self._user)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        await self._call("initdb", "-U", "postgres", "-A", "trust", "-N", "--no-instructions")
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
        shutil.rmtree(self._folder)

    async def start(self) -> None:
        """Start it, and wait until it takes connections."""
        log = str(self._folder / "log")
        await self._call("pg_ctl", "-w", "-s", "-l", log, "-o", f"{_OPTIONS} -p {self._port}", "start")

    async def stop(self) -> None:
        """Stop it as a crash does: connections are dropped."""
        await self._call("pg_ctl", "-w", "-s", "-m", "immediate", "stop", must=False)

    async def restart(self) -> None:
        """Stop it and start it again, with nobody connected for a moment."""
        await self.stop()
        await self.start()

    async def drop_connections(self) -> int:
        """End every connection but the one that asks; how many there were."""
        rows = await self.query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
        return len(rows)

    async def query(self, text: str) -> list[Any]:
        """The rows of a query, over a connection of its own."""
        async with await psycopg.AsyncConnection.connect(self.url, autocommit=True) as connection:
            return await (await connection.execute(text)).fetchall()

    async def _call(self, program: str, *arguments: str, must: bool = True) -> None:
        command = [str(self._programs / program), *arguments]
        environment = {**os.environ, "PGDATA": str(self._folder / "data")}

        def call() -> None:
            subprocess.run(
                command,
                check=must,
                user=self._user,
                env=environment,
                cwd="/",
                stdout=subprocess.DEVNULL,
                timeout=60,
            )

        await asyncio.to_thread(call)
