"""What creating a run promises: an answer once it is enqueued, and nothing changed where it is refused."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any, TypedDict

import pytest
from langgraph.graph import START, StateGraph
from tests.gateway.inprocess import Here, gateway_here
from tests.support.proxy import Proxy

from runstream import Client, InvalidRequest
from runstream.scripts import load_script
from runstream_gateway.auth.caller import Caller, Limits

pytestmark = pytest.mark.real_redis
BODY: dict[str, Any] = {"assistant_id": "one", "input": {"text": "hi"}, "metadata": {"a": 1}, "context": {"who": "me"}}


class State(TypedDict):
    text: str


@dataclass
class Context:
    who: str = ""


def graph() -> Any:
    return StateGraph(State, context_schema=Context).add_node("say", lambda s: s).add_edge(START, "say").compile()


class LastCall:
    """Lets nothing more to Redis once a script has answered; what is sent then is cut."""

    def __init__(self) -> None:
        self._sha = b""
        self._calling: set[object] = set()
        self.is_over = False

    def of(self, script: Any) -> None:
        self._sha = load_script(script).sha.encode()

    def request(self, connection: object, command: bytes) -> bool:
        if self._sha and self._sha in command:
            self._calling.add(connection)
        return not self.is_over

    def reply(self, connection: object, data: bytes) -> bool:
        self.is_over |= connection in self._calling and b"NOSCRIPT" not in data
        return True

    def restore(self) -> None:
        self._sha, self.is_over = b"", False
        self._calling.clear()


@pytest.fixture
async def here(redis_url: str, namespace: str) -> AsyncIterator[Here]:
    async with gateway_here(redis_url, namespace, one=graph(), other=graph()) as here:
        yield here


@pytest.mark.parametrize("path", ["/runs", "/runs/batch", "/threads/{}/runs"])
async def test_a_run_that_is_enqueued_is_answered_although_redis_goes_away(
    redis_url: str, namespace: str, client: Client, path: str
) -> None:
    last_call = LastCall()
    await client.enqueue("one", None)  # The script is known to Redis from here on.
    async with Proxy(redis_url, last_call) as proxy, gateway_here(proxy.url, namespace, one=graph()) as here:
        path = path.format(await here.thread())
        last_call.of("enqueue")
        answer = await here.http.post(path, json=[BODY, BODY] if path.endswith("batch") else BODY)
        assert answer.status_code == 200, answer.text
        assert last_call.is_over
        last_call.restore()
        created = answer.json() if path.endswith("batch") else [answer.json()]
        for run in created:
            known = await here.http.get(f"/threads/{run['thread_id']}/runs/{run['run_id']}")
            assert known.json() == run


async def test_a_run_that_is_refused_does_not_change_its_thread(here: Here) -> None:
    thread = await here.thread()
    await here.http.post(f"/threads/{thread}/runs", json=BODY)
    before = (await here.http.get(f"/threads/{thread}")).json()
    other = {**BODY, "assistant_id": "other"}
    refused = await here.http.post(f"/threads/{thread}/runs", json={**other, "multitask_strategy": "reject"})
    assert refused.status_code == 409
    assert (await here.http.get(f"/threads/{thread}")).json() == before
    assert before["metadata"]["graph_id"] == "one"
    # A run that is taken does: the thread is read as of its graph from then on.
    assert (await here.http.post(f"/threads/{thread}/runs", json=other)).status_code == 200
    assert (await here.http.get(f"/threads/{thread}")).json()["metadata"]["graph_id"] == "other"


async def test_a_batch_of_nothing_is_refused_and_gives_no_request_back(here: Here) -> None:
    assert (await here.http.post("/runs/batch", json=[])).status_code == 422
    assert (await here.http.post("/runs/batch", json=[BODY])).status_code == 200
    caller = replace(Caller("u1"), limits=Limits(rate=0.01, burst=1))
    for requests in (0, -1):
        with pytest.raises(InvalidRequest):
            await here.gateway.limiter.admit(caller, requests=requests)
        with pytest.raises(InvalidRequest):
            await here.gateway.client.quotas.spend("u1", rate=1, burst=1, wanted=requests)


async def test_a_factory_is_asked_once_and_beside_the_loop(redis_url: str, namespace: str, client: Client) -> None:
    asked: list[threading.Thread] = []

    def slow() -> Any:
        asked.append(threading.current_thread())
        return graph()

    async with gateway_here(redis_url, namespace, one=slow) as here:
        answers = await asyncio.gather(
            *(here.http.post("/runs", json={**BODY, "context": {"who": "me", "else": 1}}) for _ in range(3))
        )
    assert len(asked) == 1
    assert asked[0] is not threading.current_thread()
    for answer in answers:
        assert (await client.request(answer.json()["run_id"])).context == {"who": "me"}


async def test_a_factory_that_needs_the_loop_has_it(redis_url: str, namespace: str, client: Client) -> None:
    def needs_loop() -> Any:
        asyncio.get_running_loop()
        return graph()

    async with gateway_here(redis_url, namespace, one=needs_loop) as here:
        answer = await here.http.post("/runs", json={**BODY, "context": {"who": "me", "else": 1}})
    assert (await client.request(answer.json()["run_id"])).context == {"who": "me"}


async def test_a_list_of_runs_reads_what_is_asked_for_only(redis_url: str, namespace: str) -> None:
    requests: list[bytes] = []

    class Reads:
        def request(self, connection: object, command: bytes) -> bool:
            assert connection
            requests.extend([command] if b"\r\nrequest\r\n" in command else [])
            return True

        def reply(self, connection: object, data: bytes) -> bool:
            return bool(connection and data)

    async with Proxy(redis_url, Reads()) as proxy, gateway_here(proxy.url, namespace, one=graph()) as here:
        thread = await here.thread()
        created = [(await here.http.post(f"/threads/{thread}/runs", json=BODY)).json() for _ in range(3)]
        requests.clear()
        path = f"/threads/{thread}/runs"
        ids = (await here.http.get(path, params={"select": "run_id"})).json()
        assert ids == [{"run_id": run["run_id"]} for run in created[::-1]]
        assert requests == []
        assert (await here.http.get(path)).json() == created[::-1]
        assert len(requests) == 3
