"""A graph's name is any text: in langgraph.json, in keys, in URLs, at the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from langgraph_sdk import get_client
from tests.gateway.served import served

PROJECT: Final = Path(__file__).parent / "interfaces" / "names.json"


async def test_a_graph_whose_name_is_any_text_runs() -> None:
    names = list(json.loads(PROJECT.read_text())["graphs"])
    async with served(config=PROJECT) as gateway, get_client(url=gateway.url, api_key=None) as client:
        listed = {one["graph_id"]: one["assistant_id"] for one in await client.assistants.search()}
        assert sorted(listed) == sorted(names)
        for name in names:
            assert await client.runs.wait(None, name, input={"text": "hi"}) == {"text": "hi!"}
            thread = await client.threads.create()
            await client.runs.wait(thread["thread_id"], listed[name], input={"text": "hi"})
            assert (await client.threads.get_state(thread["thread_id"]))["values"] == {"text": "hi!"}
            assert await client.threads.search(metadata={"graph_id": name})
            assert (await client.assistants.get_graph(listed[name]))["nodes"]
            assert (await client.assistants.get_schemas(listed[name]))["graph_id"] == name

        info = (await gateway.processes.run("info", "--json")).json
        assert [sorted(worker["graphs"]) for worker in info["workers"]] == [sorted(names)]
        enqueued = await gateway.processes.run("enqueue", names[0], '{"text": "hi"}', "--result")
        assert enqueued.code == 0, enqueued.err
        assert enqueued.json_lines[-1] == {"text": "hi!"}
        assert ".env.missing" in gateway.process.err
