"""A run that asks a person: it ends `interrupted`, no worker waits, and a second run on the thread goes on.

The thread is kept between the two in the worker's checkpointer, which is Redis unless another one is named:

    runstream worker --config examples/langgraph.json

The answer may come seconds or weeks later, from another process.
"""

from __future__ import annotations

import asyncio
import uuid

from runstream import Client, Command


async def main() -> None:
    """Ask for a refund, let a person decide, go on."""
    thread_id = f"refund-{uuid.uuid4()}"
    async with Client() as client:
        paused = await client.invoke("approval", {"customer": "Ada", "amount": 120}, thread_id=thread_id)
        (question,) = paused["__interrupt__"]

        answer = await asyncio.to_thread(input, f"{question['value']['question']} [y/n] ")

        decided = await client.invoke("approval", Command(resume=answer == "y"), thread_id=thread_id)
        print(f"\nThe refund was {decided['outcome']}.")


if __name__ == "__main__":
    asyncio.run(main())
