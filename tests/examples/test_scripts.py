"""The examples that are scripts."""

from __future__ import annotations

import shlex
import signal

import pytest
from tests.examples.conftest import EXAMPLES, RunScript, started
from tests.support.waiting import until

from runstream import Client, RunInfo


@pytest.mark.usefixtures("worker")
async def test_one_process_enqueues_and_another_tails(run_script: RunScript, client: Client) -> None:
    run_id = (await run_script("backend_enqueue.py", "Why is the sky blue?")).strip()
    lines = (await run_script("backend_tail.py", run_id)).splitlines()

    assert lines[0].startswith("1-0 attempt")
    assert "'You'" in lines[1]
    assert lines[-1].split()[1:4] == ["end", "{'status':", "'success',"]
    assert (await run_script("backend_tail.py", run_id, "1-3")).splitlines() == lines[4:]
    (message,) = (await client.result(run_id))["messages"][1:]
    assert message["content"].startswith("You said: Why is the sky blue?")


@pytest.mark.usefixtures("worker")
async def test_topics_are_researched_in_parallel(run_script: RunScript, client: Client) -> None:
    printed = await run_script("parallel_research.py", "bees", "ants")

    for topic in ("bees", "ants"):
        assert printed.index(f"planning {topic}") < printed.index(f"writing about {topic}") < printed.index("\n\n")
        assert f"\n{topic}:\nYou said: Write the report" in printed
    first, second = await client.runs()
    assert {info.metadata["topic"] for info in (first, second)} == {"bees", "ants"}
    assert all(_overlap(one, other) for one, other in [(first, second), (second, first)])


def _overlap(one: RunInfo, other: RunInfo) -> bool:
    return one.started_at is not None and other.ended_at is not None and one.started_at < other.ended_at


@pytest.mark.usefixtures("worker")
async def test_the_sdk_streams_and_reads_on(run_script: RunScript, gateway_url: str, client: Client) -> None:
    printed = (await run_script("sdk_chat.py", "Why is the sky blue?")).splitlines()
    ids = shlex.split(printed[-1])
    (info,) = await client.runs()
    answer = (await client.result(info.run_id))["messages"][-1]["content"]
    whole = await run_script("sdk_chat.py", *ids[:4])
    rest = await run_script("sdk_chat.py", *ids[:4], "--after", "1-3")

    assert "\n".join(printed[:-1]) == answer
    assert ids == ["--thread", info.thread_id, "--run", info.run_id, "--after", str(info.last_event_id)]
    assert whole.strip() == answer
    assert answer.endswith(rest.strip())
    assert 0 < len(rest.strip()) < len(answer)


@pytest.mark.usefixtures("worker")
async def test_the_tokens_of_one_node(run_script: RunScript, client: Client) -> None:
    printed = await run_script("one_node.py", "tidal power")

    (info,) = await client.runs()
    assert printed == (await client.result(info.run_id))["report"] + "\n"


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize(("answer", "outcome"), [("y", "refunded"), ("n", "refused")])
async def test_a_person_decides(run_script: RunScript, client: Client, answer: str, outcome: str) -> None:
    printed = await run_script("human_in_the_loop.py", stdin=f"{answer}\n")

    assert printed == f"Refund 120 EUR to Ada? [y/n] \nThe refund was {outcome}.\n"
    resumed, paused = await client.runs()
    assert (paused.status, resumed.status) == ("interrupted", "success")
    assert paused.thread_id == resumed.thread_id


async def test_a_worker_under_arqs_own_command_line_runs_its_cron_job(
    environment: dict[str, str], client: Client
) -> None:
    async with started("-m", "arq", "arq_worker.WorkerSettings", environment=environment, cwd=EXAMPLES) as process:

        async def briefing_is_there() -> bool:
            return process.returncode is not None or bool(await client.runs())

        await until(briefing_is_there, "the cron job's run")
        assert process.returncode is None, (await process.communicate())[1].decode()
        (info,) = await client.runs()
        (_, answer) = (await client.result(info.run_id))["messages"]
        assert "in history" in answer["content"]

        process.send_signal(signal.SIGTERM)
        _, log = await process.communicate()
    # arq's own ending upon a signal is an error to the shell; what counts is that the worker has signed off.
    assert b"Traceback" not in log, log.decode()
    assert await client.workers() == []
