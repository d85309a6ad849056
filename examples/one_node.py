"""Tokens of one node: the graph `research` has two nodes that call a model, and only the second one's text is wanted.

python examples/one_node.py "tidal power"
"""

from __future__ import annotations

import asyncio
import sys

from runstream import Client, RunFailedError


async def main(topic: str) -> None:
    """Print the report as it is written, without the outline that came before."""
    async with Client() as client:
        run = await client.enqueue("research", {"topic": topic}, stream_mode="messages")
        try:
            async for text in client.text(run.run_id, node="write", settled=True):
                print(text, end="", flush=True)
        except RunFailedError as error:  # raised behind the text that had come by then
            sys.exit(f"\n{error}")
    print()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
