"""Many runs at once: research several topics in parallel, and show each one's progress while it runs.

python examples/parallel_research.py "solid-state batteries" "heat pumps" "tidal power"
"""

from __future__ import annotations

import asyncio
import sys

from runstream import Client, Run, RunFailedError, RunSpec

TOPICS = ["solid-state batteries", "heat pumps", "tidal power"]


async def main(topics: list[str]) -> None:
    """Enqueue a run for each topic, in one round trip, and gather the reports."""
    async with Client() as client:
        runs = await client.enqueue_many(
            RunSpec("research", {"topic": topic}, {"stream_mode": "custom", "metadata": {"topic": topic}})
            for topic in topics
        )
        async with asyncio.TaskGroup() as group:
            for run in runs:  # however many there are, they are read over one connection
                group.create_task(show_progress(client, run))

        reports = await client.gather([run.run_id for run in runs], return_exceptions=True)
        for topic, report in zip(topics, reports, strict=True):
            if isinstance(report, RunFailedError):
                print(f"\n{topic}: {report}")
            elif isinstance(report, BaseException):
                raise report
            else:
                print(f"\n{topic}:\n{report['report']}")

    # Where nobody looks at progress, all of the above is one call:
    #     reports = await client.batch("research", [{"topic": topic} for topic in topics])


async def show_progress(client: Client, run: Run) -> None:
    """Print what the graph's nodes write with `get_stream_writer`."""
    async for event in client.tail(run.run_id):
        if event.mode == "custom":
            print(event.data["progress"], flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:] or TOPICS))
