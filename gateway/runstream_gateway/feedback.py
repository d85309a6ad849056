"""Feedback on runs: a run is asked for with `feedback_keys`, and its readers are given a link for each.

Whoever has a link may leave feedback under its key, and do nothing else with it. A link is signed, not looked up, and
the same for all readers of a run.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from runstream import Documents
from runstream_gateway.auth.tokens import ReadTokens
from runstream_gateway.errors import ApiError, not_found
from runstream_gateway.ids import now

_MOST = 100
"""Entries that are kept of a run. Each rewrites all of them."""


class Feedback:
    """Makes the links, and keeps what is left by them.

    Args:
        documents: of the kind `feedback`.
        tokens: sign the links.
    """

    def __init__(self, documents: Documents, tokens: ReadTokens) -> None:
        self._documents = documents
        self._tokens = tokens

    async def links(self, base_url: str, thread_id: str, run_id: str, keys: Sequence[str]) -> dict[str, str]:
        """A link for each key; where it leads is told by `base_url`, with which the client reached the gateway."""
        path = f"{base_url.rstrip('/')}/threads/{thread_id}/runs/{run_id}/feedback"
        return {key: f"{path}/{quote(key, safe='')}?token={await self._signature(run_id, key)}" for key in keys}

    async def check(self, run_id: str, key: str, token: str) -> None:
        """Check that a link was given out.

        Raises:
            ApiError: 404, it was not; whether there is such a run is not told.
        """
        if not hmac.compare_digest(token.encode(), (await self._signature(run_id, key)).encode()):
            raise not_found("feedback link", key)

    async def leave(self, run_id: str, key: str, entry: dict[str, Any]) -> dict[str, Any]:
        """Keep feedback on a run.

        Raises:
            ApiError: 409, there is more feedback already than is kept.
        """
        kept = {"key": key, **entry, "created_at": now()}

        def added(data: dict[str, Any]) -> dict[str, Any]:
            if len(data["entries"]) >= _MOST:
                raise ApiError(409, f"there are {_MOST} entries of feedback on run {run_id!r}, and no more are kept")
            return {"entries": [*data["entries"], kept]}

        while await self._documents.update(run_id, added) is None:
            if await self._documents.create(run_id, {"entries": [kept]}) is not None:
                break
        return kept

    async def forget(self, run_id: str) -> None:
        """Remove what has been left on a run."""
        await self._documents.delete(run_id)

    async def of_run(self, run_id: str) -> list[dict[str, Any]]:
        """What has been left on a run, the oldest first."""
        known = await self._documents.get(run_id)
        return [] if known is None else list(known.data["entries"])

    async def _signature(self, run_id: str, key: str) -> str:
        return await self._tokens.signature(f"feedback\x00{run_id}\x00{key}")
