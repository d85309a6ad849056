"""Webhooks of many owners: a receiver that is silent, slow or endless delays nobody else's."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, TypedDict

import httpx
import pytest
from langgraph.graph import START, StateGraph
from tests.support.receivers import (
    Receiver,
    Respond,
    answer_without_end,
    drip,
    say_nothing,
    status,
)
from tests.support.waiting import until
from tests.support.workers import Workers

from runstream import Client
from runstream.apikeys import ApiKeys
from runstream_gateway.app import create_app
from runstream_gateway.core import Gateway, open_gateway
from runstream_gateway.settings import GatewaySettings
from runstream_gateway.webhooks.addresses import Addresses
from runstream_gateway.webhooks.courier import AT_ONCE
from runstream_gateway.webhooks.payload import MOST_BYTES
from runstream_gateway.webhooks.resolving import MOST
from runstream_gateway.webhooks.sending import Sender
from runstream_gateway.webhooks.sharing import Places, of_owner, of_receiver
from runstream_worker.graphs import graph_source

MANY = 160
"""More than a gateway tries at once."""
LONG = 600.0
"""Seconds that a try may take: a place that is held is held until the end of the test."""


class State(TypedDict, total=False):
    n: int
    text: str


def graphs() -> dict[str, Any]:
    """`adds`, and `large`, whose state is larger than a payload may be."""

    async def add(state: State) -> State:
        return {"n": state["n"] + 1}

    async def grow(state: State) -> State:
        return {"text": "x" * MOST_BYTES}

    return {
        "adds": StateGraph(State).add_node("add", add).add_edge(START, "add").compile(),
        "large": StateGraph(State).add_node("grow", grow).add_edge(START, "grow").compile(),
    }


@dataclass(frozen=True)
class Open:
    """A gateway in this process, and clients of its API by the owner's name; "" is a client without a key."""

    gateway: Gateway
    clients: dict[str, httpx.AsyncClient]

    async def run(self, url: str, owner: str = "", assistant: str = "adds") -> str:
        """Create a run with a webhook; its id."""
        body = {"input": {"n": 1}, "assistant_id": assistant, "webhook": url}
        response = await self.clients[owner].post("/runs", json=body)
        assert response.status_code == 200, response.text
        return str(response.json()["run_id"])

    async def many(self, urls: list[str], owner: str = "") -> None:
        """Create runs with webhooks."""
        for url in urls:
            await self.run(url, owner)


OpenGateway = Callable[..., Awaitable[Open]]


@pytest.fixture
async def start(redis_url: str, namespace: str, client: Client, workers: Workers) -> AsyncIterator[OpenGateway]:
    """Starts a worker, and gateways for some owners with keys, or for anybody."""
    known = graphs()
    await workers.start(None, **known)
    keys = ApiKeys(client)
    async with AsyncExitStack() as stack:

        async def start(*owners: str, timeout: float = LONG) -> Open:
            settings = GatewaySettings(
                redis_url=redis_url,
                namespace=namespace,
                api_keys=bool(owners),
                webhook_allow=("127.0.0.0/8",),
                webhook_first_wait=0.05,
                webhook_timeout=timeout,
            )
            sources = {name: graph_source(name, graph) for name, graph in known.items()}
            gateway = await stack.enter_async_context(open_gateway(sources, settings))
            clients = {}
            for owner in owners or ("",):
                headers = {"x-api-key": (await keys.create(owner))[0]} if owner else {}
                transport = httpx.ASGITransport(create_app(gateway))
                http = httpx.AsyncClient(transport=transport, base_url="http://gateway", headers=headers, timeout=60)
                clients[owner] = await stack.enter_async_context(http)
            return Open(gateway, clients)

        yield start


@pytest.fixture
async def prompt() -> AsyncIterator[Receiver]:
    """A receiver that answers at once."""
    async with Receiver(address="127.0.0.2") as receiver:
        yield receiver


@pytest.mark.parametrize("respond", [say_nothing, drip], ids=["silent", "a byte at a time"])
async def test_the_silent_receiver_of_one_owner_delays_nobody_else(
    start: OpenGateway, prompt: Receiver, respond: Respond
) -> None:
    here = await start("anna", "bert")
    answers: list[Respond] = [respond] * MANY
    async with Receiver(answers) as silent:
        await here.many([silent.url()] * MANY, "anna")
        await silent.called(5)

        # None of the tries that are under way ends before the test does: there has to be room beside them.
        run_id = await here.run(prompt.url(), "bert")

        (call,) = await prompt.called()
        assert call.json["run_id"] == run_id
        assert len(silent.calls) < AT_ONCE // 4


async def test_an_owner_s_own_prompt_receiver_is_not_delayed_either(start: OpenGateway, prompt: Receiver) -> None:
    here = await start("anna")
    async with Receiver([say_nothing] * MANY) as silent:
        await here.many([silent.url()] * MANY, "anna")
        await silent.called(5)
        await here.run(prompt.url(), "anna")
        await prompt.called()


async def test_without_owners_a_silent_host_delays_no_other_host(start: OpenGateway, prompt: Receiver) -> None:
    here = await start()
    async with Receiver([say_nothing] * MANY) as silent:
        await here.many([silent.url()] * MANY)
        await silent.called(5)
        await here.run(prompt.url())
        await prompt.called()


async def test_the_silent_path_of_a_host_that_owners_share_delays_only_its_owner(start: OpenGateway) -> None:
    here = await start("anna", "bert")
    async with Receiver(by_path={"/silent": say_nothing}) as shared:
        await here.many([shared.url("/silent")] * MANY, "anna")
        await shared.called(3)
        await here.run(shared.url("/prompt"), "bert")
        await until(lambda: any(call.target == "/prompt" for call in shared.calls), "the other owner's was taken")


async def test_several_gateways_are_not_filled_by_one_owner(start: OpenGateway, prompt: Receiver) -> None:
    first, second = await start("anna", "bert"), await start("carl")
    async with Receiver([say_nothing] * 2 * MANY) as silent:
        await first.many([silent.url()] * MANY, "anna")
        await silent.called(5)
        await first.run(prompt.url(), "bert")
        await second.run(prompt.url(), "carl")
        await prompt.called(2)


# -- names ------------------------------------------------------------------------------------------------------------


class Names:
    """The system's resolver: of names of one kind it says nothing, and others have the address that they begin with."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.end = threading.Event()
        self.silent = False
        self._find = socket.getaddrinfo

    def find(self, host: Any, *rest: Any, **others: Any) -> Any:
        if not str(host).endswith(".example"):
            return self._find(host, *rest, **others)
        self.asked.append(host)
        if self.silent and host.startswith("slow"):
            self.end.wait(60)
            raise OSError("no name server answers")
        return self._find("127.0.0.2" if host.startswith("prompt") else "127.0.0.1", *rest, **others)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    names = Names()
    monkeypatch.setattr(socket, "getaddrinfo", names.find)
    yield names
    names.end.set()


async def test_many_names_of_one_address_are_one_receiver(start: OpenGateway, prompt: Receiver, names: Names) -> None:
    here = await start()
    async with Receiver([say_nothing] * MANY) as silent:
        await here.many([f"http://many{at}.example:{silent.port}/" for at in range(MANY)])
        await silent.called(5)
        await here.run(f"http://prompt.example:{prompt.port}/")
        await prompt.called()
        assert len(silent.calls) < AT_ONCE // 4


async def test_the_silent_name_servers_of_one_owner_leave_lookups_to_the_others(
    start: OpenGateway, prompt: Receiver, names: Names
) -> None:
    here = await start("anna", "bert")
    body = {"assistant_id": "adds", "input": {"n": 1}}
    names.silent = True

    async def ask(at: int) -> int:
        url = f"http://slow{at}.example:{prompt.port}/"
        return (await here.clients["anna"].post("/runs", json={**body, "webhook": url})).status_code

    asked = [asyncio.create_task(ask(at)) for at in range(2 * MOST)]
    await until(lambda: any(task.done() for task in asked), "the owner has its share of lookups")

    await here.run(f"http://prompt.example:{prompt.port}/", "bert")

    await prompt.called()
    assert len(names.asked) < MOST
    names.end.set()
    assert {await task for task in asked} == {422, 503}


# -- what one delivery takes ------------------------------------------------------------------------------------------


async def test_a_body_without_end_is_not_read(prompt: Receiver) -> None:
    async with (
        Receiver([answer_without_end]) as endless,
        Sender(Addresses(("127.0.0.0/8",)), None, timeout=LONG) as sender,
    ):
        answer = await sender.send("id", endless.url(), b"{}")
        assert answer.done


async def test_a_head_that_drips_ends_with_the_time_of_the_try() -> None:
    async with Receiver([drip]) as slow, Sender(Addresses(("127.0.0.0/8",)), None, timeout=0.3) as sender:
        answer = await sender.send("id", slow.url(), b"{}")
        assert (answer.done, answer.again, answer.told) == (False, True, "no answer within 0.3 s")


async def test_a_redirect_to_itself_is_one_try(start: OpenGateway) -> None:
    async with Receiver() as receiver:
        receiver.answers = [status(302, f"location: {receiver.url()}")] * 9
        async with Sender(Addresses(("127.0.0.0/8",)), None, timeout=5) as sender:
            answer = await sender.send("id", receiver.url(), b"{}")
        assert (answer.done, answer.again, len(receiver.calls)) == (False, False, 1)


async def test_values_that_are_too_large_are_left_out_and_said_to_be(start: OpenGateway, prompt: Receiver) -> None:
    here = await start()
    run_id = await here.run(prompt.url(), assistant="large")
    (call,) = await prompt.called()
    assert (call.json["run_id"], call.json["status"], call.json["values"]) == (run_id, "success", None)
    assert call.json["values_left_out"].endswith(" bytes")
    assert len(call.body) < 10_000


# -- places -----------------------------------------------------------------------------------------------------------


def test_the_more_owners_there_are_the_less_each_gets_and_some_places_stay_free() -> None:
    places = Places(128)
    taken = [sum(places.try_take(of_owner(f"o{owner}")) for _ in range(200)) for owner in range(12)]
    assert taken[0] == 25
    assert taken == sorted(taken, reverse=True)
    assert 0 < sum(taken) < 128
    assert places.try_take(of_receiver("new", "host", ["127.0.0.1"]))


def test_an_owner_with_many_hosts_has_no_more_than_one_with_few() -> None:
    places = Places(128)
    claims = [of_receiver("anna", f"h{at}", [f"10.0.0.{at}"]) for at in range(200)]
    assert sum(map(places.try_take, claims)) == 25


def test_hosts_within_one_ipv6_network_are_one_receiver() -> None:
    places = Places(128)
    claims = [of_receiver("", f"h{at}", [f"2001:db8::{at:x}"]) for at in range(200)]
    assert sum(map(places.try_take, claims)) == 14


async def test_who_waits_gets_a_place_in_turn_and_who_leaves_takes_none_along() -> None:
    places, order = Places(1), []

    async def take(owner: str, leaves: asyncio.Event) -> None:
        async with places.hold(of_owner(owner)):
            order.append(owner)
            await leaves.wait()

    first, others = asyncio.Event(), asyncio.Event()
    others.set()
    tasks = [asyncio.create_task(take("anna", first))]
    tasks += [asyncio.create_task(take(owner, others)) for owner in ("anna", "anna", "bert", "carl")]
    await until(lambda: order == ["anna"], "the first has it")
    tasks[4].cancel()
    first.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert order == ["anna", "anna", "bert", "anna"]
    assert places.try_take(of_owner("dora"))
