"""Whether a gateway can serve: what it depends on, asked one by one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import Any, Final

from redis.exceptions import RedisError

from runstream.eviction import Eviction
from runstream.faults import reason_of
from runstream_gateway.core import Gateway

_logger = logging.getLogger("runstream.gateway")

CHECK_TIMEOUT: Final = 2.0
"""How long each part may take to answer, in seconds: load balancers wait little longer."""

_NO_THREAD: Final = {"configurable": {"thread_id": "runstream-health", "checkpoint_ns": ""}}


async def health(gateway: Gateway) -> dict[str, dict[str, Any]]:
    """How Redis, the checkpoints' database and the workers are, all asked at once, and which graphs are missing."""
    redis, checkpointer, workers = await asyncio.gather(
        _tried("redis", _redis(gateway)),
        _tried("checkpointer", _read(gateway)),
        _tried("workers", gateway.client.workers()),
    )
    live = len(workers.pop("answer") or ())
    if workers["ok"] and not live:
        workers = {"ok": False, "detail": "there is none; runs wait until there is"}
    redis |= _of_eviction(gateway, redis.pop("answer"))
    del checkpointer["answer"]
    return {
        "redis": {**redis, "needed_for": "everything"},
        "checkpointer": {**checkpointer, "needed_for": "the state of threads"},
        "workers": {**workers, "live": live, "needed_for": "the execution of runs"},
        **_graphs(gateway),
    }


async def _redis(gateway: Gateway) -> Eviction | None:
    await gateway.client.ping()
    return await gateway.client.eviction()


def _of_eviction(gateway: Gateway, eviction: Eviction | None) -> dict[str, Any]:
    """What is wrong with a Redis that throws keys away: it fails where it has done so lately, else it is a warning."""
    if eviction is None or eviction.warning is None:
        return {}
    if gateway.evictions.is_recent(eviction):
        return {"ok": False, "detail": eviction.warning}
    return {"warning": eviction.warning}


def _graphs(gateway: Gateway) -> dict[str, dict[str, Any]]:
    """Which graphs this gateway could not load; nothing where it could load all."""
    missing = [name for name, source in gateway.graphs.items() if source.problem is not None]
    if not missing:
        return {}
    detail = f"cannot be loaded: {', '.join(map(repr, missing))}; the gateway's log says why"
    return {"graphs": {"ok": False, "detail": detail, "not_loaded": missing, "needed_for": "their states and runs"}}


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
        detail = reason_of(error) if isinstance(error, RedisError) else type(error).__name__
        return {"ok": False, "answer": None, "detail": detail}
