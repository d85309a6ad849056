"""One backend enqueues, and is done: it prints the run's id and ends. `backend_tail.py` reads, anywhere else.

run_id=$(python examples/backend_enqueue.py "Why is the sky blue?")
python examples/backend_tail.py $run_id
"""

from __future__ import annotations

import asyncio
import sys

from runstream import Client


async def main(question: str) -> None:
    """Enqueue one run."""
    async with Client() as client:
        run = await client.enqueue(
            "chat",
            {"messages": [{"role": "user", "content": question}]},
            stream_mode=["messages", "updates"],
            timeout=120,  # seconds that the run may take
        )
    print(run.run_id)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
