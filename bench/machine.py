"""What the figures were measured on; nothing in it tells whose machine it is."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

from redis.asyncio import Redis

from runstream import __version__

_PACKAGES = ("redis", "hiredis", "arq", "langgraph", "langchain-core")


def machine() -> dict[str, Any]:
    """Processors, memory and operating system."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return {
        "cpus": os.cpu_count(),
        "cpu_model": _cpu_model(),
        "memory_gib": round(memory, 1),
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


async def versions(redis_url: str) -> dict[str, str]:
    """The versions of what takes part."""
    async with Redis.from_url(redis_url) as redis:
        server = await cast("Any", redis.info("server"))
    packages = {f"{name} (package)" if name == "redis" else name: version(name) for name in _PACKAGES}
    return {
        "python": platform.python_version(),
        "redis (server)": str(server["redis_version"]),
        **packages,
        "runstream": __version__,
    }


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
