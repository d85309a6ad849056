"""Whether a gateway can serve: what it depends on, asked one by one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import Any, Final

from runstream_gateway.core import Gateway

_logger = logging.getLogger("runstream.gateway")

CHECK_TIMEOUT: Final = 2.0
"""How long each part may take to answer, in seconds: load balancers wait little longer."""

_NO_THREAD: Final = {"configurable": {"thread_id": "runstream-health", "checkpoint_ns": ""}}


async def health(gateway: Gateway) -> dict[str, dict[str, Any]]:
    """How Redis, the checkpoints' database and the workers are, all asked at once."""
    redis, checkpointer, workers = await asyncio.gather(
        _tried("redis", gateway.client.ping()),
        _tried("checkpointer", _read(gateway)),
        _tried("workers", gateway.client.workers()),
    )
    live = len(workers.pop("answer") or ())
    if workers["ok"] and not live:
        workers = {"ok": False, "detail": "there is none; runs wait until there is"}
    for part in (redis, checkpointer):
        del part["answer"]
    return {
        "redis": {**redis, "needed_for": "everything"},
        "checkpointer": {**checkpointer, "needed_for": "the state of threads"},
        "workers": {**workers, "live": live, "needed_for": "the execution of runs"},
    }


async def _read(gateway: Gateway) -> None:
    if gateway.states.saver is not None:
        await gateway.states.saver.aget_tuple(_NO_THREAD)  # type: ignore[arg-type]  # a RunnableConfig has nothing else


async def _tried(name: str, asked: Awaitable[object]) -> dict[str, Any]:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT):
            return {"ok": True, "answer": await asked}
    except TimeoutError:
        return {"ok": False, "answer": None, "detail": f"no answer within {CHECK_TIMEOUT:g} s"}
    except Exception as error:  # noqa: BLE001 - each database's driver has errors of its own
        # Their texts name hosts and users; who asks here has shown no key.
        _logger.warning("%s cannot be used: %s", name, error)
        return {"ok": False, "answer": None, "detail": type(error).__name__}
