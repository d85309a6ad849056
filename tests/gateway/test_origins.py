"""Pages of other origins: what a browser sends without asking has no effect unless `http.cors` admits the page."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import httpx
import pytest

from runstream import Client
from runstream_gateway.app import create_app
from runstream_gateway.core import open_gateway
from runstream_gateway.settings import Cors, GatewaySettings

HERE = "http://gateway:2024"
CORS = Cors(allow_origins=("https://app.example",), allow_origin_regex=r"https://[a-z]+\.app\.example")
RUN = json.dumps({"assistant_id": "agent", "input": {"n": 1}, "if_not_exists": "create"})
THREAD = "11111111-2222-4333-8444-555555555555"
FOREIGN = [
    "https://evil.example", "null", "https://app.example.evil.example", "https://app.example:444", "http://app.example",
    "http://gateway:2025", "https://[", "https://x.app.example\x00",
]  # fmt: skip


@pytest.fixture
async def http(redis_url: str, namespace: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway that one other origin may call."""
    settings = GatewaySettings(redis_url=redis_url, namespace=namespace, cors=CORS)
    async with open_gateway({}, settings) as gateway:
        transport = httpx.ASGITransport(create_app(gateway))
        async with httpx.AsyncClient(transport=transport, base_url=HERE) as http:
            yield http


@pytest.mark.parametrize("origin", FOREIGN)
@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
async def test_a_page_that_cors_does_not_admit_creates_nothing(
    http: httpx.AsyncClient, client: Client, origin: str, kind: str
) -> None:
    headers = {"origin": origin, **({"content-type": kind} if kind else {})}
    for path in ("/runs", "/runs/stream", "/runs/wait", "/runs/batch", f"/threads/{THREAD}/runs", "/threads"):
        refused = await http.post(path, content=RUN, headers=headers)
        assert refused.status_code == 403, path
        assert refused.json()["detail"].startswith("http.cors: pages of ")
    assert (await http.post(f"/threads/{THREAD}/copy", headers={"origin": origin})).status_code == 403
    assert await client.runs() == []
    assert (await http.get(f"/threads/{THREAD}")).status_code == 404


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
async def test_no_method_is_an_exception(http: httpx.AsyncClient, method: str) -> None:
    headers = {"origin": "https://evil.example", "content-type": "text/plain"}
    assert (await http.request(method, f"/threads/{THREAD}", headers=headers)).status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "https://app.example"},
        {"origin": "https://new.app.example"},
        {"origin": HERE},
        {"origin": "https://gateway:2024"},  # behind a proxy that speaks TLS
        {"sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "cors", "origin": "https://app.example"},
    ],
)
@pytest.mark.parametrize("kind", ["application/json", "text/plain", "application/x-www-form-urlencoded", ""])
async def test_clients_and_pages_that_are_admitted_are_served_as_before(
    http: httpx.AsyncClient, headers: dict[str, str], kind: str
) -> None:
    created = await http.post("/threads", content="{}", headers={**headers, **({"content-type": kind} if kind else {})})
    assert created.status_code == 200
    assert (await http.post(f"/threads/{created.json()['thread_id']}/copy", headers=headers)).status_code == 200


async def test_what_a_page_embeds_is_refused_and_what_a_link_leads_to_is_not(http: httpx.AsyncClient) -> None:
    for site in ("cross-site", "same-site"):
        embedded = await http.get("/info", headers={"sec-fetch-site": site, "sec-fetch-mode": "no-cors"})
        assert embedded.status_code == 403
        link = {"sec-fetch-site": site, "sec-fetch-mode": "navigate", "accept": "text/html"}
        assert (await http.get("/", headers=link)).status_code == 200


async def test_a_preflight_is_answered_as_before(http: httpx.AsyncClient) -> None:
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "content-type"}
    assert (await http.options("/runs", headers={**asked, "origin": "https://app.example"})).status_code == 200
    assert (await http.options("/runs", headers={**asked, "origin": "https://evil.example"})).status_code == 400


async def test_without_cors_any_page_may_call(redis_url: str, namespace: str) -> None:
    async with open_gateway({}, GatewaySettings(redis_url=redis_url, namespace=namespace)) as gateway:
        transport = httpx.ASGITransport(create_app(gateway))
        async with httpx.AsyncClient(transport=transport, base_url=HERE) as http:
            headers = {"origin": "https://any.example", "content-type": "text/plain"}
            assert (await http.post("/threads", content="{}", headers=headers)).status_code == 200
