"""Workers in the test's own process."""

from __future__ import annotations

from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

from runstream_worker.graphs import graph_source
from runstream_worker.runner import Runner, open_runner
from runstream_worker.settings import WorkerSettings


class Workers:
    """Starts workers, each with the graphs and settings that it is given; ends them all at the end of the block."""

    def __init__(self, redis_url: str, namespace: str) -> None:
        self.redis_url = redis_url
        self.namespace = namespace
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def start(self, settings: dict[str, Any] | None = None, /, **graphs: object) -> Runner:
        """Start a worker with these graphs (compiled, or factories), by name."""
        options = {"shutdown_grace": 0.5, "cancel_grace": 1.0, **(settings or {})}
        worker = WorkerSettings(redis_url=self.redis_url, namespace=self.namespace, **options)
        sources = {name: graph_source(name, graph) for name, graph in graphs.items()}
        return await self._stack.enter_async_context(open_runner(sources, worker))
