"""Feedback: links in the stream and in the result, for whoever is to say what it thinks of a run."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from langgraph_sdk import get_client

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}


async def test_a_stream_ends_with_a_link_for_each_key(base_url: str) -> None:
    keys = ["taste", "true to fact"]
    async with get_client(url=base_url) as client:
        thread = await client.threads.create()
        begun = client.runs.stream(thread["thread_id"], "chat", input=CHAT, stream_mode="values", feedback_keys=keys)
        parts = [part async for part in begun]
        run_id = parts[0].data["run_id"]
        read_again = client.runs.join_stream(thread["thread_id"], run_id, last_event_id="-1")
        joined = [part async for part in read_again]
    assert [part.event for part in parts[-2:]] == ["feedback", "end"]
    links = parts[-2].data
    assert set(links) == {"taste", "true to fact"}
    assert joined[-2].data == links
    place = f"{base_url}/threads/{thread['thread_id']}/runs/{run_id}/feedback/"
    assert all(link.startswith(place) for link in links.values())


async def test_a_result_has_the_links_too(base_url: str) -> None:
    result = await _waited(base_url, "/runs/wait", feedback_keys=["taste"])
    assert set(result["__feedback__"]) == {"taste"}
    assert "messages" in result


async def test_who_has_the_link_leaves_feedback_and_who_has_not_does_not(base_url: str) -> None:
    async with get_client(url=base_url) as client:
        thread = await client.threads.create()
    result = await _waited(base_url, f"/threads/{thread['thread_id']}/runs/wait", feedback_keys=["taste", "tone"])
    links = result["__feedback__"]
    async with httpx.AsyncClient() as http:
        left = await http.post(links["taste"], json={"score": 0.5, "comment": "good"})
        assert left.status_code == 200
        assert {**left.json(), "created_at": ""} == {"key": "taste", "score": 0.5, "comment": "good", "created_at": ""}
        # A link is for its key only.
        for wrong in (links["taste"].replace("/taste?", "/tone?"), links["taste"].partition("?")[0]):
            refused = await http.post(wrong, json={"score": 1})
            assert refused.status_code == 404
            assert isinstance(refused.json()["detail"], str)
        assert (await http.post(links["tone"], json={"score": "much"})).status_code == 422
        kept = await http.get(links["taste"].partition("/taste?")[0])
    assert [one["key"] for one in kept.json()] == ["taste"]


async def test_a_key_may_be_any_name(base_url: str) -> None:
    keys = ["a/b", "/", "50%", "grün?", "a b", "..."]
    result = await _waited(base_url, "/runs/wait", feedback_keys=keys)
    assert list(result["__feedback__"]) == keys
    async with httpx.AsyncClient() as http:
        for key, link in result["__feedback__"].items():
            left = await http.post(link, json={"score": 1})
            assert (left.status_code, left.json()["key"]) == (200, key), left.text


@pytest.mark.parametrize("keys", [["k"] * 51, ["k" * 201], ["ü" * 101], [""], ["."], [".."]])
async def test_keys_are_few_and_short(base_url: str, keys: list[str]) -> None:
    asked = {"assistant_id": "chat", "input": CHAT, "feedback_keys": keys}
    async with httpx.AsyncClient(base_url=base_url) as http:
        for path in ("/runs", "/runs/wait", "/runs/stream"):
            refused = await http.post(path, json=asked)
            assert refused.status_code == 422
            assert "feedback_keys" in refused.json()["detail"]


async def test_feedback_is_little(base_url: str) -> None:
    link = (await _waited(base_url, "/runs/wait", feedback_keys=["taste"]))["__feedback__"]["taste"]
    async with httpx.AsyncClient() as http:
        for field in ("value", "comment"):
            assert (await http.post(link, json={field: "x" * 2_001})).status_code == 422
            assert (await http.post(link, json={field: "x" * 2_000})).status_code == 200
        for _ in range(98):
            assert (await http.post(link, json={"score": 1})).status_code == 200
        full = await http.post(link, json={"score": 1})
        assert (full.status_code, "100" in full.json()["detail"]) == (409, True)


async def test_a_read_token_is_given_no_links(base_url: str) -> None:
    async with httpx.AsyncClient(base_url=base_url) as http:
        thread = (await http.post("/threads", json={})).json()["thread_id"]
        path = f"/threads/{thread}/runs"
        asked = {"assistant_id": "chat", "input": CHAT, "feedback_keys": ["taste"]}
        assert "__feedback__" in (await http.post(f"{path}/wait", json=asked)).json()
        run_id = (await http.get(path)).json()[0]["run_id"]
        token = (await http.post(f"{path}/{run_id}/token")).json()["token"]
        for reader, told in (({}, True), ({"authorization": f"Bearer {token}"}, False)):
            headers = {**reader, "last-event-id": "-1"}
            stream = await http.get(f"{path}/{run_id}/stream", headers=headers)
            assert "event: end" in stream.text
            assert ("event: feedback" in stream.text) is told
            joined = await http.get(f"{path}/{run_id}/join", headers=reader)
            assert "messages" in joined.json()
            assert ("__feedback__" in joined.json()) is told


async def test_a_run_that_was_asked_for_without_keys_has_no_links(base_url: str) -> None:
    assert "__feedback__" not in await _waited(base_url, "/runs/wait")


async def _waited(base_url: str, path: str, **body: Any) -> Any:
    """The result of a run. The client itself has `feedback_keys` for streams only."""
    async with httpx.AsyncClient(base_url=base_url) as http:
        return (await http.post(path, json={"assistant_id": "chat", "input": CHAT, **body})).json()
