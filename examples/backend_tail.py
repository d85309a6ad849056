"""Read a run that another process enqueued: from its start, or from behind an event that was seen already.

python examples/backend_tail.py RUN_ID [AFTER]
"""

from __future__ import annotations

import asyncio
import sys

from runstream import Client


async def main(run_id: str, after: str | None = None) -> None:
    """Print every event; works while the run waits, while it runs, and for a day after its end."""
    async with Client() as client:
        async for event in client.tail(run_id, after=after):
            match event.mode:
                case "messages":
                    message, metadata = event.data
                    print(event.id, metadata["langgraph_node"], repr(message["content"]), flush=True)
                case "gap":
                    # The events in between have been removed from the stream; the record and the result have not.
                    print(event.id, "some events before this one are gone", flush=True)
                case _:
                    print(event.id, event.mode, event.data, flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
