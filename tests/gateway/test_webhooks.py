"""Webhooks: who is told, what, how often, and who is never called."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict
from uuid import uuid4

import httpx
import pytest
from langgraph.graph import START, StateGraph
from redis.asyncio import Redis
from tests.support.clock import let_pass
from tests.support.processes import Processes, Running
from tests.support.receivers import SECRET, Receiver, hang_up, receivers_check, status
from tests.support.unsent import unsent
from tests.support.waiting import until
from tests.support.workers import Workers

from runstream import Client, InvalidRequest, Status
from runstream.deliveries import Deliveries, Delivery, share_of
from runstream.keys import Keys
from runstream_gateway.app import create_app
from runstream_gateway.core import Gateway, open_gateway
from runstream_gateway.settings import GatewaySettings, HeaderRules
from runstream_gateway.webhooks.addresses import Addresses, WebhookRefused, WebhookUnresolved
from runstream_gateway.webhooks.resolving import MOST, Resolver, ResolverBusy
from runstream_gateway.webhooks.sending import Sender
from runstream_gateway.webhooks.signature import sign
from runstream_worker.graphs import graph_source

LOOPBACK = ("127.0.0.0/8",)


class State(TypedDict, total=False):
    n: int
    secret: bool


GATE: dict[str, asyncio.Event] = {}


def graphs() -> dict[str, Any]:
    """`adds`, `fails` and `waits`."""

    async def add(state: State) -> State:
        return {"n": state["n"] + 1}

    async def fail(state: State) -> State:
        raise (OSError if state.get("secret") else ValueError)("no luck")

    async def wait(state: State) -> State:
        await asyncio.Event().wait()
        return {"n": 0}

    built = {}
    for name, node in (("fails", fail), ("waits", wait)):
        graph = StateGraph(State).add_node("add", add).add_node(name, node)
        built[name] = graph.add_edge(START, "add").add_edge("add", name).compile()
    return {**built, "adds": StateGraph(State).add_node("add", add).add_edge(START, "add").compile()}


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as receiver:
        yield receiver


@dataclass(frozen=True)
class Open:
    """A gateway in this process, and a client of its API."""

    gateway: Gateway
    http: httpx.AsyncClient

    async def run(self, assistant: str, url: str, *, thread: str | None = None, **body: Any) -> str:
        """Create a run with a webhook; its id."""
        path = "/runs" if thread is None else f"/threads/{thread}/runs"
        body = {"input": {"n": 1}, **body, "assistant_id": assistant, "webhook": url}
        response = await self.http.post(path, json=body)
        assert response.status_code == 200, response.text
        return str(response.json()["run_id"])

    async def thread(self) -> str:
        return str((await self.http.post("/threads", json={})).json()["thread_id"])


OpenGateway = Callable[..., Awaitable[Open]]


@pytest.fixture
async def start(redis_url: str, namespace: str, workers: Workers) -> AsyncIterator[OpenGateway]:
    """Starts a worker, and gateways that try again soon."""
    known = graphs()
    await workers.start(None, **known)
    async with AsyncExitStack() as stack:

        async def start(**options: Any) -> Open:
            defaults = {"webhook_allow": LOOPBACK, "webhook_secret": SECRET, "webhook_first_wait": 0.05}
            settings = GatewaySettings(redis_url=redis_url, namespace=namespace, **{**defaults, **options})
            sources = {name: graph_source(name, graph) for name, graph in known.items()}
            gateway = await stack.enter_async_context(open_gateway(sources, settings))
            transport = httpx.ASGITransport(create_app(gateway))
            http = httpx.AsyncClient(transport=transport, base_url="http://gateway")
            return Open(gateway, await stack.enter_async_context(http))

        yield start


@pytest.fixture
def deliveries(client: Client) -> Deliveries:
    """Those of a gateway that is not there any more."""
    return client.deliveries("a dead gateway")


async def forgotten(deliveries: Deliveries, run_id: str) -> None:
    """Wait until nothing is left of a delivery."""

    async def gone() -> bool:
        return await deliveries.get(run_id) is None

    await until(gone, "the delivery is done")


async def given_up(deliveries: Deliveries, run_id: str) -> Mapping[str, str]:
    """Wait until a delivery was given up; what is known of it."""

    async def so() -> bool:
        found = await deliveries.get(run_id)
        return found is not None and "given_up" in found.fields

    await until(so, "the delivery was given up")
    found = await deliveries.get(run_id)
    assert found is not None
    return found.fields


# -- what is told -----------------------------------------------------------------------------------------------------


async def test_a_run_is_told_when_it_has_ended(
    start: OpenGateway, receiver: Receiver, deliveries: Deliveries, redis: Redis, namespace: str
) -> None:
    here = await start()
    thread = await here.thread()
    run_id = await here.run("adds", receiver.url(), thread=thread, metadata={"order": 7})

    (call,) = await receiver.called()

    assert call.target == "/ended?token=hidden"
    assert call.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert call.headers["content-type"] == "application/json"
    assert call.headers["runstream-delivery"] == run_id
    assert call.is_signed()
    assert not call.is_signed("another secret")
    told = call.json
    run = (await here.http.get(f"/threads/{thread}/runs/{run_id}")).json()
    own = ("run_started_at", "run_ended_at", "webhook_sent_at", "values")
    assert {name: value for name, value in told.items() if name not in own} == run
    assert (told["status"], told["values"], told["metadata"]["order"]) == ("success", {"n": 2}, 7)
    assert told["created_at"] <= told["run_started_at"] <= told["run_ended_at"] <= told["webhook_sent_at"]
    await forgotten(deliveries, run_id)
    assert await redis.zcard(Keys(namespace).deliveries) == 0
    assert len(receiver.calls) == 1


async def test_a_stateless_run_is_told_too(start: OpenGateway, receiver: Receiver, deliveries: Deliveries) -> None:
    here = await start()
    run_id = await here.run("adds", receiver.url())
    (call,) = await receiver.called()
    assert (call.json["run_id"], call.json["status"], call.json["values"]) == (run_id, "success", {"n": 2})
    await forgotten(deliveries, run_id)


async def test_the_receiver_is_not_told_what_only_the_graph_is(start: OpenGateway, receiver: Receiver) -> None:
    here = await start(headers=HeaderRules(("x-*",)))
    here.http.headers["x-team"] = "blue"
    await here.run("adds", receiver.url(), config={"configurable": {"mine": 1}})
    (call,) = await receiver.called()
    shown = call.json["kwargs"]["config"]["configurable"]
    assert shown["mine"] == 1
    assert "x-team" not in shown


async def test_without_a_secret_nothing_is_signed(start: OpenGateway, receiver: Receiver) -> None:
    here = await start(webhook_secret=None)
    await here.run("adds", receiver.url())
    (call,) = await receiver.called()
    assert "runstream-signature" not in call.headers


@pytest.mark.parametrize(
    ("secret", "error"),
    [
        (False, {"error": "ValueError", "message": "no luck"}),
        (True, {"error": "OSError", "message": "An internal error occurred"}),
    ],
)
async def test_an_error_is_told_as_readers_are_told_it(
    start: OpenGateway, receiver: Receiver, *, secret: bool, error: dict[str, str]
) -> None:
    here = await start()
    thread = await here.thread()
    await here.run("fails", receiver.url(), thread=thread, input={"n": 1, "secret": secret})
    (call,) = await receiver.called()
    assert (call.json["status"], call.json["error"]) == ("error", error)
    assert call.json["values"]["n"] == 2


async def test_a_run_that_was_stopped_is_told(start: OpenGateway, receiver: Receiver, client: Client) -> None:
    here = await start()
    thread = await here.thread()
    run_id = await here.run("waits", receiver.url(), thread=thread)
    await until(lambda: is_running(client, run_id), "the run has begun")
    await here.http.post(f"/threads/{thread}/runs/{run_id}/cancel")
    (call,) = await receiver.called()
    assert (call.json["run_id"], call.json["status"]) == (run_id, "interrupted")
    assert "error" not in call.json


@pytest.mark.parametrize("how", ["rollback", "delete", "delete the thread"])
async def test_a_run_that_goes_at_its_end_is_told(
    start: OpenGateway, receiver: Receiver, client: Client, how: str
) -> None:
    here = await start()
    thread = await here.thread()
    run_id = await here.run("waits", receiver.url(), thread=thread)
    await until(lambda: is_running(client, run_id), "the run has begun")
    path = f"/threads/{thread}/runs/{run_id}"
    match how:
        case "rollback":
            await here.http.post(f"{path}/cancel", params={"action": "rollback", "wait": True})
        case "delete":
            await here.http.delete(path)
        case _:
            await here.http.delete(f"/threads/{thread}")
    (call,) = await receiver.called()
    assert (call.json["run_id"], call.json["status"]) == (run_id, "interrupted")
    assert (await here.http.get(path)).status_code == 404


@pytest.mark.parametrize(
    ("options", "status", "kind"),
    [
        ({"timeout": 0.2, "graph": "waits"}, "timeout", "TimeoutError"),
        ({"start_within": 0.05, "graph": "nobody-has-it"}, "error", "NotStarted"),
    ],
    ids=["timeout", "lost"],
)
async def test_runs_that_ended_otherwise_are_told(  # noqa: PLR0917 - pytest passes them by name
    start: OpenGateway, receiver: Receiver, client: Client, options: dict[str, Any], status: str, kind: str
) -> None:
    here = await start()
    run_id = str(uuid4())
    async with here.gateway.courier.expecting(run_id, receiver.url()):
        await client.enqueue(options.pop("graph"), {"n": 1}, run_id=run_id, **options)
    (call,) = await receiver.called()
    assert (call.json["run_id"], call.json["status"]) == (run_id, status)
    assert call.json["error"]["error"] == kind or status == "error"


@pytest.mark.parametrize(
    ("body", "age", "spoil", "taken"),
    [
        (b"{}", 0, str, True),
        (b"{}", 200, str, True),
        (b"{}", 1000, str, False),
        (b"{ }", 0, str, False),
        (b"{}", 0, str.swapcase, False),
        (b"{}", 0, lambda header: header.partition(",")[0], False),
        (b"{}", 0, lambda header: header.partition(",")[2], False),
        (b"{}", 0, lambda header: "nonsense", False),
    ],
)
def test_a_receiver_takes_nothing_else(body: bytes, age: int, spoil: Callable[[str], str], *, taken: bool) -> None:
    header = sign(SECRET, int(time.time()) - age, b"{}")
    assert receivers_check()(SECRET, spoil(header), body) is taken


# -- how often --------------------------------------------------------------------------------------------------------


async def test_it_is_tried_again_until_it_is_taken(
    start: OpenGateway, receiver: Receiver, deliveries: Deliveries
) -> None:
    receiver.answers = [status(503), hang_up, status(429, "retry-after: 0"), status(204)]
    here = await start()
    run_id = await here.run("adds", receiver.url())

    calls = await receiver.called(4)
    await forgotten(deliveries, run_id)

    assert len(calls) == 4
    assert {call.headers["runstream-delivery"] for call in calls} == {run_id}
    assert all(call.is_signed() for call in calls)
    assert len({json.dumps({**call.json, "webhook_sent_at": None}) for call in calls}) == 1
    assert len({call.json["webhook_sent_at"] for call in calls}) == 4


async def test_who_does_not_answer_is_tried_again(start: OpenGateway, receiver: Receiver) -> None:
    async def say_nothing(writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    receiver.answers = [say_nothing]
    here = await start(webhook_timeout=0.2)
    await here.run("adds", receiver.url())
    await receiver.called(2)


async def test_it_is_given_up_after_its_tries(
    start: OpenGateway, receiver: Receiver, deliveries: Deliveries, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.answers = [status(500)] * 9
    here = await start(webhook_tries=3)
    with caplog.at_level(logging.WARNING, "runstream.gateway.webhooks"):
        run_id = await here.run("adds", receiver.url())
        known = await given_up(deliveries, run_id)
    assert (known["tries"], known["told"], len(receiver.calls)) == ("3", "HTTP 500", 3)
    assert f"run {run_id}: its webhook http://127.0.0.1:{receiver.port}/... was given up after 3 tries" in caplog.text
    assert "hidden" not in caplog.text


@pytest.mark.parametrize("code", [400, 410, 302])
async def test_a_refusal_is_final_and_can_be_read_for_a_day(  # noqa: PLR0917 - pytest passes them by name
    start: OpenGateway, receiver: Receiver, deliveries: Deliveries, redis: Redis, namespace: str, code: int
) -> None:
    receiver.answers = [status(code, f"location: {receiver.url('/elsewhere')}")]
    here = await start()
    run_id = await here.run("adds", receiver.url())
    known = await given_up(deliveries, run_id)
    assert (known["tries"], known["told"]) == ("1", f"HTTP {code}")
    assert json.loads(known["payload"])["run_id"] == run_id
    keys = Keys(namespace)
    assert 0 < await redis.ttl(keys.delivery(run_id)) <= 24 * 3600
    assert await redis.zcard(keys.deliveries) == 0
    assert [call.target for call in receiver.calls] == ["/ended?token=hidden"]


async def test_of_many_gateways_one_delivers(start: OpenGateway, receiver: Receiver, deliveries: Deliveries) -> None:
    gateways = [await start() for _ in range(3)]
    runs = await asyncio.gather(*(gateways[at % 3].run("adds", receiver.url()) for at in range(30)))
    await asyncio.gather(*(forgotten(deliveries, run_id) for run_id in runs))
    assert sorted(call.headers["runstream-delivery"] for call in receiver.calls) == sorted(runs)


async def test_a_run_that_is_due_later_is_looked_at_later(
    start: OpenGateway, receiver: Receiver, redis: Redis, namespace: str
) -> None:
    here = await start()
    run_id = await here.run("adds", receiver.url(), after_seconds=2000)

    async def so() -> bool:
        share = share_of("", "127.0.0.1")
        return (await redis.zscore(Keys(namespace).deliveries_of(share), run_id) or 0) > (time.time() + 1000) * 1000

    await until(so, "nobody waits for it")


# -- who dies ---------------------------------------------------------------------------------------------------------


async def test_another_gateway_delivers_what_a_killed_one_has_not(
    redis_url: str, namespace: str, tmp_path: Path, receiver: Receiver, deliveries: Deliveries
) -> None:
    async def never_answer(writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    receiver.answers = [never_answer]
    async with Processes(redis_url, namespace, tmp_path) as processes:
        processes.write("graph.py", GRAPH)
        await processes.worker("adds=graph.py")
        allowed = ("--webhook-allow", "hooks.internal", "--webhook-allow", "127.0.0.1")
        first, url = await gateway_process(processes, *allowed)
        body = {"assistant_id": "adds", "input": {"n": 1}, "webhook": receiver.url()}
        async with httpx.AsyncClient(base_url=url) as http:
            run_id = (await http.post("/runs", json=body)).json()["run_id"]
        await receiver.called()
        first.kill()
        await first.ended()
        second, _ = await gateway_process(processes, RUNSTREAM_WEBHOOK_ALLOW="10.0.0.0/8, 127.0.0.1")

        calls = await receiver.called(2)
        await forgotten(deliveries, run_id)

        assert [call.json["run_id"] for call in calls] == [run_id, run_id]
        assert calls[1].is_signed()
        second.terminate()
        finished = await second.ended()
        assert (finished.code, "Traceback" in finished.err, SECRET in finished.err) == (0, False, False)


GRAPH = """
from typing import TypedDict
from langgraph.graph import START, StateGraph

class State(TypedDict, total=False):
    n: int

async def add(state):
    return {"n": state["n"] + 1}

graph = StateGraph(State).add_node("add", add).add_edge(START, "add").compile()
"""


async def gateway_process(processes: Processes, *options: str, **environment: str) -> tuple[Running, str]:
    """A gateway as an operator starts it, and its URL."""
    environment = {"RUNSTREAM_WEBHOOK_SECRET": SECRET, **environment}
    gateway = await processes.start(
        "gateway", "--json", "--port", "0", *options, "adds=graph.py", environment=environment
    )
    return gateway, (await gateway.json_line())["url"]


async def test_a_gateway_that_leaves_hands_over(  # noqa: PLR0917 - pytest passes them by name
    start: OpenGateway, receiver: Receiver, deliveries: Deliveries, client: Client, redis_url: str, namespace: str
) -> None:
    sources = {name: graph_source(name, graph) for name, graph in graphs().items()}
    settings = GatewaySettings(redis_url=redis_url, namespace=namespace, webhook_allow=LOOPBACK)
    run_id = str(uuid4())
    async with open_gateway(sources, settings) as leaving, leaving.courier.expecting(run_id, receiver.url()):
        await client.enqueue("waits", {"n": 1}, run_id=run_id)
    begun = time.monotonic()
    await start()
    await client.stop(run_id)
    (call,) = await receiver.called()
    assert call.json["run_id"] == run_id
    assert time.monotonic() - begun < 9  # the lease of one that had died would have lasted so long at least
    await forgotten(deliveries, run_id)


async def test_no_error_ends_the_looking(  # noqa: PLR0917 - pytest passes them by name
    start: OpenGateway, receiver: Receiver, deliveries: Deliveries, client: Client, redis: Redis, namespace: str
) -> None:
    await start()
    run = await client.enqueue("adds", {"n": 1})
    with unsent(Keys(namespace).deliveries, RuntimeError("the handler is closed")) as failed:
        await until(lambda: len(failed) > 1, "deliveries could not be looked at")
    await deliveries.add(Delivery(run.run_id, {"url": receiver.url(), "created": f"{time.time()}", "tries": "0"}))
    await let_pass(redis, Keys(namespace), 11_000)
    (call,) = await receiver.called()
    assert call.json["run_id"] == run.run_id


async def test_a_run_that_never_was_is_forgotten(
    start: OpenGateway, receiver: Receiver, deliveries: Deliveries, redis: Redis, namespace: str
) -> None:
    """A gateway has died between the wish and the run."""
    old, new = str(uuid4()), str(uuid4())
    for run_id, age in ((old, 1000), (new, 0)):
        await deliveries.add(Delivery(run_id, {"url": receiver.url(), "created": f"{time.time() - age}", "tries": "0"}))
    await let_pass(redis, Keys(namespace), 11_000)
    await start()
    await forgotten(deliveries, old)
    assert await deliveries.get(new) is not None
    assert receiver.calls == []


async def test_a_run_that_was_refused_is_not_waited_for(
    start: OpenGateway, receiver: Receiver, redis: Redis, namespace: str
) -> None:
    here = await start()
    thread = await here.thread()
    await here.run("waits", receiver.url(), thread=thread)
    body = {"assistant_id": "adds", "input": {"n": 1}, "webhook": receiver.url(), "multitask_strategy": "reject"}
    refused = await here.http.post(f"/threads/{thread}/runs", json=body)
    assert refused.status_code == 409
    assert await redis.zcard(Keys(namespace).deliveries) == 1


async def is_running(client: Client, run_id: str) -> bool:
    return (await client.get(run_id)).status is Status.RUNNING


# -- who is never called ----------------------------------------------------------------------------------------------

NOT_PUBLIC = [
    "127.0.0.1", "127.9.9.9", "0.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
    "192.0.2.1", "192.0.0.8", "198.18.0.1", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255", "192.88.99.1",
    "::", "::1", "::127.0.0.1", "fe80::1", "fe80::1%lo", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1",
    "::ffff:127.0.0.1", "::ffff:169.254.169.254", "2002:7f00:1::1", "2001:0:7f00:1::", "2001:db8::1", "100::1",
    "64:ff9b::127.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "3fff::1",
]  # fmt: skip
PUBLIC = ["8.8.8.8", "93.184.215.14", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"]


def resolving(*addresses: str) -> Callable[[str], Awaitable[list[str]]]:
    """Every host has these addresses."""

    async def resolve(host: str) -> list[str]:
        return list(addresses)

    return resolve


@pytest.mark.parametrize("address", NOT_PUBLIC)
async def test_what_is_not_public_is_refused(address: str) -> None:
    with pytest.raises(WebhookRefused, match="not a public one"):
        await Addresses(resolve=resolving(address)).check("https://hooks.example.com/")
    with pytest.raises(WebhookRefused):
        await Addresses(resolve=resolving("8.8.8.8", address)).check("https://hooks.example.com/")
    await Addresses(["hooks.example.com"], resolve=resolving(address)).check("https://HOOKS.example.com./")
    await Addresses(["0.0.0.0/0", "::/0"], resolve=resolving(address)).check("https://hooks.example.com/")


@pytest.mark.parametrize("address", PUBLIC)
async def test_what_is_public_is_called(address: str) -> None:
    await Addresses(resolve=resolving(address)).check("http://hooks.example.com:8080/ended?x=1")


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/", "http://127.1/", "http://2130706433/", "http://0x7f000001/", "http://0177.0.0.1/",
        "http://[::1]/", "http://[::ffff:7f00:1]/", "http://localhost:6379/", "http://LOCALHOST./", "http://0/",
        "http://\uff11\uff12\uff17.0.0.1/",
    ],
)  # fmt: skip
async def test_every_spelling_of_this_machine_is_refused(url: str) -> None:
    with pytest.raises((WebhookRefused, WebhookUnresolved)):
        await Addresses().check(url)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "http:// or https://"),
        ("/local/route", "http:// or https://"),
        ("ftp://example.com/", "http:// or https://"),
        ("file:///etc/passwd", "http:// or https://"),
        ("gopher://example.com/_x", "http:// or https://"),
        ("http://", "no host"),
        ("http://user:password@example.com/", "must not contain a user"),
        ("http://example.com:0/", "no port"),
        ("http://example.com:99999/", "no port"),
        ("http://[::1/", "no URL"),
        ("http://exa\r\nmple.com/", "no URL"),
        ("http://example.com/" + "x" * 5000, "longer than"),
    ],
)
async def test_what_is_no_url_of_a_webhook_is_refused(url: str, why: str) -> None:
    with pytest.raises(WebhookRefused, match=why):
        await Addresses(resolve=resolving("8.8.8.8")).check(url)


@pytest.mark.parametrize("allowed", ["", "10.0.0.0/33", "http://x/", "a b", "*", "10.0.0.256", "1.2.3", "host:80"])
def test_what_is_allowed_has_to_be_a_host_or_a_network(allowed: str) -> None:
    with pytest.raises(InvalidRequest, match="webhook_allow"):
        GatewaySettings(webhook_allow=(allowed,))


async def test_a_run_whose_webhook_is_refused_is_not_created(start: OpenGateway, client: Client) -> None:
    here = await start(webhook_allow=())
    thread = str(uuid4())
    body = {"assistant_id": "adds", "input": {"n": 1}, "if_not_exists": "create"}
    for url in ("http://127.0.0.1:1/", "http://169.254.169.254/latest/meta-data", "nonsense"):
        for path in ("/runs", "/runs/stream", "/runs/wait", f"/threads/{thread}/runs"):
            response = await here.http.post(path, json={**body, "webhook": url})
            assert response.status_code == 422
            assert response.json()["detail"].startswith("webhook: ")
    assert await client.runs() == []
    assert (await here.http.get(f"/threads/{thread}")).status_code == 404


async def test_a_server_without_webhooks_refuses_them(start: OpenGateway, receiver: Receiver) -> None:
    here = await start(webhooks=False)
    body = {"assistant_id": "adds", "input": {"n": 1}}
    refused = await here.http.post("/runs", json={**body, "webhook": receiver.url()})
    assert (refused.status_code, "disable_webhooks" in refused.text) == (422, True)
    assert (await here.http.post("/runs/wait", json={**body, "webhook": None})).json() == {"n": 2}


async def test_what_was_allowed_once_is_looked_at_again(  # noqa: PLR0917 - pytest passes them by name
    start: OpenGateway, receiver: Receiver, deliveries: Deliveries, client: Client, redis: Redis, namespace: str
) -> None:
    run_id = str(uuid4())
    await deliveries.add(Delivery(run_id, {"url": receiver.url(), "created": f"{time.time()}", "tries": "0"}))
    await client.enqueue("adds", {"n": 1}, run_id=run_id)
    await let_pass(redis, Keys(namespace), 11_000)
    await start(webhook_allow=())
    known = await given_up(deliveries, run_id)
    assert "not a public one" in known["told"]
    assert receiver.calls == []


async def test_a_name_that_changes_its_mind_is_not_followed(receiver: Receiver) -> None:
    """DNS rebinding: the first answer is public, the second one is this machine."""
    answers = [["8.8.8.8"], ["127.0.0.1"]]

    async def resolve(host: str) -> list[str]:
        return answers.pop(0)

    addresses = Addresses(resolve=resolve)
    url = f"http://hooks.example.com:{receiver.port}/"
    await addresses.check(url)
    async with Sender(addresses, None, timeout=5) as sender:
        answer = await sender.send("id", url, b"{}")
    assert (answer.done, answer.again, receiver.calls) == (False, False, [])


async def test_the_address_that_was_checked_is_the_one_that_is_called(receiver: Receiver) -> None:
    asked = []

    async def resolve(host: str) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"]

    async with Sender(Addresses(LOOPBACK, resolve=resolve), None, timeout=5) as sender:
        # No resolver in the world knows this name, so nobody else was asked for it.
        answer = await sender.send("id", f"http://hooks.invalid:{receiver.port}/", b"{}")
    assert answer.done
    assert asked == ["hooks.invalid"]
    assert receiver.calls[0].headers["host"] == f"hooks.invalid:{receiver.port}"


async def test_a_name_that_has_no_address_just_now_is_tried_again() -> None:
    async def resolve(host: str) -> list[str]:
        raise OSError("no name server answers")

    addresses = Addresses(resolve=resolve)
    with pytest.raises(WebhookUnresolved):
        await addresses.check("https://hooks.example.com/")
    async with Sender(addresses, None, timeout=5) as sender:
        answer = await sender.send("id", "https://hooks.example.com/", b"{}")
    assert (answer.done, answer.again) == (False, True)


# -- names whose servers are silent -----------------------------------------------------------------------------------


class Names:
    """The system's resolver: it knows no name, and of some it says nothing until the end."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.end = threading.Event()
        self._find = socket.getaddrinfo

    def find(self, host: Any, *rest: Any, **others: Any) -> Any:
        if not str(host).endswith(".example"):
            return self._find(host, *rest, **others)
        self.asked.append(host)
        if host.startswith("silent"):
            self.end.wait(60)
            raise OSError("no name server answers")
        return self._find("127.0.0.1", *rest, **others)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    names = Names()
    monkeypatch.setattr(socket, "getaddrinfo", names.find)
    yield names
    names.end.set()


async def test_silent_name_servers_hold_nobody_up(start: OpenGateway, receiver: Receiver, names: Names) -> None:
    here = await start()
    body = {"assistant_id": "adds", "input": {"n": 1}}

    async def ask(host: str) -> httpx.Response:
        return await here.http.post("/runs", json={**body, "webhook": f"http://{host}:{receiver.port}/"})

    silent = [asyncio.create_task(ask(f"silent{number}.example")) for number in range(MOST)]
    await until(lambda: len(names.asked) == MOST, "all are being looked up")
    joins = asyncio.create_task(ask("silent0.example"))
    busy = await ask("prompt.example")
    assert (busy.status_code, busy.headers["retry-after"]) == (503, "1")
    # Neither the loop's pool nor who names an address is touched.
    assert await asyncio.get_running_loop().run_in_executor(None, lambda: True)
    assert (await ask("127.0.0.1")).status_code == 200
    await receiver.called()
    names.end.set()
    assert {(await task).status_code for task in (*silent, joins)} == {422}
    assert len(names.asked) == MOST
    assert (await ask("prompt.example")).status_code == 200
    await receiver.called(2)


async def test_who_stops_waiting_leaves_the_name_to_the_others(names: Names) -> None:
    resolver = Resolver(most=1)
    one, other = (asyncio.create_task(resolver("silent.example")) for _ in range(2))
    await until(lambda: bool(names.asked), "it is being looked up")
    one.cancel()
    with pytest.raises(ResolverBusy):
        await resolver("prompt.example")
    names.end.set()
    with pytest.raises(OSError, match="no name server"):
        await other
    assert one.cancelled()
    assert names.asked == ["silent.example"]


async def test_a_batch_asks_for_each_host_once(start: OpenGateway, names: Names, client: Client) -> None:
    here = await start()
    run = {"assistant_id": "adds", "input": {"n": 1}}
    webhooks = [f"http://{host}.example:1/{number}" for number in range(20) for host in ("one", "two")]
    # The last one is refused, and so are all.
    bodies = [*({**run, "webhook": webhook} for webhook in webhooks), {**run, "assistant_id": str(uuid4())}]
    refused = await here.http.post("/runs/batch", json=bodies)
    assert refused.status_code == 404
    assert names.asked == ["one.example", "two.example"]
    assert await client.runs() == []
