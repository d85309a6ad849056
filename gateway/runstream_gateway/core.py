"""The gateway: what all requests of a process share. It holds no run, so any gateway serves any of them."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph_sdk import Auth
from redis.exceptions import RedisError

from runstream import Client, ClientSettings, InvalidRequest
from runstream.apikeys import STORAGE_LIMIT_NAMES, ApiKeys
from runstream.deliveries import Deliveries
from runstream_gateway.assistants import ASSISTANT_TTL, Assistants
from runstream_gateway.auth.caller import NO_LIMITS, Limits
from runstream_gateway.auth.guard import Guard, OpenGuard
from runstream_gateway.auth.handlers import HandlersGuard
from runstream_gateway.auth.keys import KEY_LIMITS, KeysGuard
from runstream_gateway.auth.limits import Limiter
from runstream_gateway.auth.tokens import GuardKind, ReadTokens, TokenGuard
from runstream_gateway.evictions import Evictions
from runstream_gateway.feedback import Feedback
from runstream_gateway.ids import new_id
from runstream_gateway.lane import Lane
from runstream_gateway.loopback import TrustingGuard
from runstream_gateway.runs import Runs
from runstream_gateway.settings import GatewaySettings
from runstream_gateway.states import States
from runstream_gateway.storage import DEFAULT_BYTES, STORAGE_LIMITS, Storage
from runstream_gateway.streaming import OpenStreams
from runstream_gateway.threads import Threads
from runstream_gateway.turns import Turns
from runstream_gateway.webhooks.addresses import Addresses
from runstream_gateway.webhooks.courier import Courier
from runstream_gateway.webhooks.payload import Payloads
from runstream_gateway.webhooks.sending import Sender
from runstream_worker.checkpoints import open_checkpointer
from runstream_worker.graphs import GraphSource

logger = logging.getLogger("runstream.gateway")

_CONNECTIONS = 16
_CALL_TIMEOUT = 10.0
"""Seconds within which Redis has to answer a request's call, the wait for a connection included; then it is 503."""


@dataclass(frozen=True)
class Gateway:
    """One gateway process.

    Attributes:
        settings: how it behaves.
        client: producer and consumer of all runs.
        graphs: those that it can show the state of, by name.
        states, threads, runs, assistants: what it serves.
        guard: says who calls and what they may do; `tokens` makes read tokens.
        limiter, storage: hold callers to how much they may do, and keep.
        feedback: makes links for feedback on runs, and keeps it.
        courier: tells others of the ends of runs.
        streams: those that are open in this process.
        lane: computes what would hold the event loop up; `turns` are for requests that read much.
        evictions: whether Redis has thrown keys away lately.
    """

    settings: GatewaySettings
    client: Client
    graphs: Mapping[str, GraphSource]
    states: States
    threads: Threads
    runs: Runs
    assistants: Assistants
    guard: Guard
    limiter: Limiter
    storage: Storage
    tokens: ReadTokens
    feedback: Feedback
    courier: Courier
    streams: OpenStreams = field(default_factory=OpenStreams)
    lane: Lane = field(default_factory=Lane)
    turns: Turns = field(default_factory=Turns)
    evictions: Evictions = field(default_factory=Evictions)


@asynccontextmanager
async def open_gateway(
    graphs: Mapping[str, GraphSource], settings: GatewaySettings, *, auth: Auth | None = None
) -> AsyncIterator[Gateway]:
    """A gateway for as long as the block lasts.

    Args:
        graphs: by name, as `runstream_worker.graphs.load_graphs` gives them.
        settings: how it behaves.
        auth: a project's own handlers, which say who may do what.

    Raises:
        InvalidRequest: a setting is out of its range, or there are both API keys and handlers.
        CheckpointerError: the checkpoints' database cannot be used.
    """
    guard_kind = _guard_kind(auth, api_keys=settings.api_keys)
    async with AsyncExitStack() as stack:
        client_settings = ClientSettings(
            namespace=settings.namespace,
            max_request_bytes=settings.max_body_bytes,
            connections=_CONNECTIONS,
            call_timeout=_CALL_TIMEOUT,
        )
        client = await stack.enter_async_context(Client(settings.redis_url, settings=client_settings))
        saver = await _saver(stack, settings)
        lane, turns = Lane(), Turns()
        stack.callback(lane.close)
        states = States(
            graphs,
            saver,
            lane,
            turns,
            keep_own=settings.keeps_own,
            show_errors=settings.show_errors,
            patience=settings.checkpoint_patience,
        )
        documents = client.documents("thread", ttl=settings.thread_ttl)
        deliveries = client.deliveries(new_id())
        payloads = Payloads(client, deliveries, states, show_errors=settings.show_errors)
        tokens = ReadTokens(client, settings.token_secret, guard=guard_kind)
        feedback = Feedback(client.documents("feedback", ttl=settings.thread_ttl), tokens)

        async def before_forgetting(run_id: str) -> None:
            await payloads.keep(run_id)
            await feedback.forget(run_id)

        runs = Runs(client, documents, states, before_forgetting, show_errors=settings.show_errors)
        stack.push_async_callback(runs.aclose)
        limiter = await stack.enter_async_context(Limiter(client.quotas))
        evictions = await _looked_at_eviction(client)
        yield Gateway(
            settings=settings,
            client=client,
            graphs=graphs,
            states=states,
            threads=Threads(client, documents, states, before_forgetting, lane, show_errors=settings.show_errors),
            runs=runs,
            assistants=Assistants(
                client.documents("assistant", ttl=ASSISTANT_TTL), graphs, lane, show_errors=settings.show_errors
            ),
            guard=TrustingGuard(_guard(client, tokens, auth, guard_kind, await _limits(client, settings, guard_kind))),
            storage=Storage(client.usage, ttl=settings.thread_ttl, assistant_ttl=ASSISTANT_TTL),
            limiter=limiter,
            tokens=tokens,
            feedback=feedback,
            lane=lane,
            turns=turns,
            courier=await _courier(stack, settings, client, deliveries, payloads),
            evictions=evictions,
        )


async def _looked_at_eviction(client: Client) -> Evictions:
    """Warn of a Redis that may throw keys away; what is to come is counted from here. One that is away says nothing."""
    evictions = Evictions()
    with suppress(RedisError):
        eviction = await client.eviction()
        if eviction is not None:
            evictions.is_recent(eviction)
            if eviction.warning is not None:
                logger.warning("%s", eviction.warning)
    return evictions


async def _saver(stack: AsyncExitStack, settings: GatewaySettings) -> BaseCheckpointSaver[Any] | None:
    return await stack.enter_async_context(
        open_checkpointer(
            settings.checkpointer_url or "redis",
            runs_url=settings.redis_url,
            namespace=settings.namespace,
            ttl=settings.thread_ttl,
            patience=settings.checkpoint_patience,
            waits_for_runs=False,
            classes=settings.checkpoint_classes,
        )
    )


async def _courier(
    stack: AsyncExitStack, settings: GatewaySettings, client: Client, deliveries: Deliveries, payloads: Payloads
) -> Courier:
    addresses = Addresses(settings.webhook_allow)
    sender = await stack.enter_async_context(
        Sender(addresses, settings.webhook_secret, timeout=settings.webhook_timeout)
    )
    return await stack.enter_async_context(
        Courier(
            client,
            deliveries,
            payloads,
            addresses,
            sender,
            tries=settings.webhook_tries,
            first_wait=settings.webhook_first_wait,
            is_open=settings.webhooks,
        )
    )


def _guard_kind(auth: Auth | None, *, api_keys: bool) -> GuardKind:
    if auth is not None and api_keys:
        raise InvalidRequest(
            "api_keys",
            "the project has handlers of its own (auth.path), which no API key passes; choose one of the two",
        )
    if auth is not None:
        return "handlers"
    return "keys" if api_keys else "open"


async def _limits(client: Client, settings: GatewaySettings, kind: GuardKind) -> Limits:
    """What callers may do and keep by default: not more than half of what Redis may have, where that is known."""
    base = KEY_LIMITS if kind == "keys" else NO_LIMITS
    storage = {name: getattr(STORAGE_LIMITS, name) for name in STORAGE_LIMIT_NAMES}
    if "stored_bytes" not in settings.limits and (room := await client.usage.room()) is not None:
        storage["stored_bytes"] = min(room // 2, DEFAULT_BYTES)
    numbers: dict[str, Any] = {**storage, **settings.limits}
    return replace(base, **numbers)


def _guard(client: Client, tokens: ReadTokens, auth: Auth | None, kind: GuardKind, limits: Limits) -> Guard:
    """Who is asked what a caller may do: a project's own handlers, or the holder of the keys, or nobody."""
    if auth is not None:
        return TokenGuard(tokens, HandlersGuard(auth, limits=limits))
    if kind == "keys":
        keys = KeysGuard(ApiKeys(client), limits=limits)
        return TokenGuard(tokens, keys, vouch=keys.vouch)
    return TokenGuard(tokens, OpenGuard(limits))
