"""A chat through the gateway with LangGraph's own SDK. The connection may break, and the reader may come back.

    runstream dev --config examples/langgraph.json
    python examples/sdk_chat.py "Why is the sky blue?"
    python examples/sdk_chat.py --thread THREAD --run RUN --after 1-7

The first call prints the words as they come, and at its end the ids; the second one reads the same run again, behind an
event. A connection that breaks in between is the SDK's business: it comes back with the last id that it has seen.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

from langgraph_sdk import get_client


async def show(parts: AsyncIterator[Any]) -> str | None:
    """Print the words of a stream; gives the id of its last event."""
    last = None
    async for part in parts:
        last = part.id or last
        match part.event:
            case "messages":
                message, _ = part.data
                print(message["content"], end="", flush=True)
            case "metadata" if part.data.get("attempt", 1) > 1:
                # A worker was lost, and another one says again what had not been saved.
                print("\n[again, from what was saved]", flush=True)
            case "error":
                print(f"\n{part.data['error']}: {part.data['message']}")
    print()
    return last


async def main() -> None:
    """Ask a question on a new thread, or go on reading an answer."""
    parser = argparse.ArgumentParser()
    parser.add_argument("question", nargs="?", default="What can you do?")
    parser.add_argument("--thread")
    parser.add_argument("--run")
    parser.add_argument("--after", default="-1", help="the id of an event; -1 is the start")
    given = parser.parse_args()
    async with get_client(url=os.environ.get("RUNSTREAM_GATEWAY_URL", "http://127.0.0.1:2024")) as client:
        if given.run is not None:
            await show(client.runs.join_stream(given.thread, given.run, last_event_id=given.after))
            return
        thread = await client.threads.create()
        created: list[Any] = []
        stream = client.runs.stream(
            thread["thread_id"],
            "chat",
            input={"messages": [{"role": "user", "content": given.question}]},
            stream_mode="messages-tuple",
            on_run_created=created.append,
        )
        last = await show(stream)
        print(f"--thread {thread['thread_id']} --run {created[0]['run_id']} --after {last}")


if __name__ == "__main__":
    asyncio.run(main())
