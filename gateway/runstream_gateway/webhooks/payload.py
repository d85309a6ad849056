"""What is told of a run that has ended."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from runstream import Client, RunFailedError, RunInfo, RunNotFound
from runstream.deliveries import Deliveries
from runstream_gateway.errors import ApiError
from runstream_gateway.ids import iso
from runstream_gateway.jsonbytes import dumps
from runstream_gateway.runs import run_json
from runstream_gateway.states import States
from runstream_gateway.told_errors import error_of

MOST_BYTES = 10 * 1024 * 1024
"""What a payload may have. Values that make it longer are left out."""


class Payloads:
    """Makes what is told, and keeps it beside the wish that it be told: the run may go before that.

    Args:
        client: knows the runs.
        deliveries: what is to be told.
        states: knows what runs have saved.
        show_errors: tell the messages of all exceptions.
    """

    def __init__(self, client: Client, deliveries: Deliveries, states: States, *, show_errors: bool) -> None:
        self._client = client
        self._deliveries = deliveries
        self._states = states
        self._show_errors = show_errors

    async def keep(self, run_id: str) -> None:
        """Keep what is to be told of a run that has ended and is about to be forgotten, if somebody is to be told."""
        delivery = await self._deliveries.get(run_id)
        if delivery is None or "payload" in delivery.fields:
            return
        with suppress(RunNotFound):
            await self._deliveries.supply(run_id, await self.fields_of(run_id))

    async def fields_of(self, run_id: str) -> dict[str, str]:
        """Return the fields of a delivery that its payload makes up: `payload`, JSON, and `payload_bytes`, its size.

        Raises:
            RunNotFound: it has gone.
        """
        info = await self._client.get(run_id)
        run = run_json(info, await self._client.request(run_id))
        error = info.error.model_dump() if info.error else None
        told = error_of(info.status, error, show=self._show_errors)
        values = await self._values(info)
        payload = {
            **run,
            "run_started_at": iso(info.started_at),
            "run_ended_at": iso(info.ended_at),
            "values": values,
            **({} if told is None else {"error": told}),
        }
        encoded = dumps(payload)
        if len(encoded) > MOST_BYTES:
            encoded = dumps({**payload, "values": None, "values_left_out": f"{len(encoded):,} bytes"})
        return {"payload": encoded.decode(), "payload_bytes": str(len(encoded))}

    async def _values(self, info: RunInfo) -> Any:
        """What a run has returned; of one that failed or was stopped, what it has saved."""
        try:
            return await self._client.result(info.run_id)
        except RunFailedError:
            pass
        try:
            state = await self._states.get(info.graph, info.thread_id)
        except ApiError:  # This gateway does not have the graph.
            return None
        return state["values"]
