"""The command line of runs that are taken over, lost, requeued, or wait."""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from redis.asyncio import Redis
from tests.support.attempts import HandAttempt
from tests.support.processes import Processes
from tests.support.waiting import until

from runstream import Client, InvalidRequest, Status
from runstream.cli import app, info, runs
from runstream.cli.follow import follow
from runstream.cli.terminal import Output
from runstream.keys import Keys
from runstream.model import new_run_id

MakeHand: TypeAlias = Callable[..., Awaitable[HandAttempt]]
TERMINAL = Output(pretty=True, terminal=True, width=120)


@pytest.fixture
async def cli(redis_url: str, namespace: str, tmp_path: Path) -> AsyncIterator[Processes]:
    async with Processes(redis_url, namespace, tmp_path) as processes:
        yield processes


@pytest.fixture
async def talk(make_hand: MakeHand) -> HandAttempt:
    """A run that was taken over: what its second task had said is void."""
    hand = await make_hand(stream_mode="messages")
    await hand.say("done, ", "a")
    await hand.say("half", "b")
    await hand.take_over(tasks=[{"id": "b", "name": "b", "ns": []}], events=[], count=1)
    await hand.say("whole", "b", "another message")
    await hand.end()
    return hand


def parsed(*arguments: str) -> argparse.Namespace:
    return app._parser().parse_args(arguments)


async def test_text_in_a_pipe_has_nothing_that_was_void(cli: Processes, talk: HandAttempt) -> None:
    for settled in ((), ("--settled",), ("--settled", "--json")):
        found = await cli.run("tail", talk.run_id, "--text", *settled)
        said = "".join(piece["text"] for piece in found.json_lines) + "\n" if "--json" in settled else found.out
        assert (found.code, said, found.err) == (0, "done, whole\n", "")


async def test_settled_events_in_a_pipe_have_nothing_that_was_void(cli: Processes, talk: HandAttempt) -> None:
    found = (await cli.run("tail", talk.run_id, "--settled")).json_lines
    assert [event["id"] for event in found] == ["1-0", "1-1", "2-0", "2-1", "2-2"]


async def test_text_at_once_begins_anew_on_a_new_line_and_a_note_says_so(cli: Processes, talk: HandAttempt) -> None:
    found = await cli.run("tail", talk.run_id, "--text", "--no-settled")
    assert (found.code, found.out) == (0, "done, half\ndone, whole\n")
    assert found.err == "runstream: attempt 2 says some of it again; the whole text that stands now:\n"


async def test_text_as_json_says_which_piece_replaces(cli: Processes, talk: HandAttempt) -> None:
    found = await cli.run("tail", talk.run_id, "--text", "--json")
    assert found.json_lines == [
        {"id": "1-1", "text": "done, ", "replaces": False},
        {"id": "1-2", "text": "half", "replaces": False},
        {"id": "2-0", "text": "done, ", "replaces": True},
        {"id": "2-1", "text": "whole", "replaces": False},
    ]
    assert found.err == ""


async def test_text_in_a_terminal_begins_anew_behind_a_line_about_it(
    client: Client, talk: HandAttempt, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await follow(client, TERMINAL, talk.run_id, parsed("tail", talk.run_id, "--text")) == 0
    assert capsys.readouterr().out == (
        "done, \nhalf\n[attempt 2 says some of it again; the whole text that stands now:]\ndone, \nwhole\n"
    )


async def test_each_message_begins_on_a_line_of_its_own_in_a_terminal_and_in_a_pipe_nothing_is_added(
    cli: Processes, client: Client, make_hand: MakeHand, capsys: pytest.CaptureFixture[str]
) -> None:
    hand = await make_hand(stream_mode="messages")
    for text, task in (("Look", "a"), ("ing.", "a"), ("It ", "b"), ("rains.\n", "b"), ("Bye", "c"), (".", "c")):
        await hand.say(text, task)
    await hand.end()
    await follow(client, TERMINAL, hand.run_id, parsed("tail", hand.run_id, "--text"))
    assert capsys.readouterr().out == "Looking.\nIt rains.\nBye.\n"
    assert (await cli.run("tail", hand.run_id, "--text")).out == "Looking.It rains.\nBye.\n"


async def test_text_of_which_nothing_stands_any_more(
    client: Client, make_hand: MakeHand, capsys: pytest.CaptureFixture[str]
) -> None:
    hand = await make_hand(stream_mode="messages")
    await hand.say("half\n")
    await hand.take_over(all=True, count=1)
    await hand.end()
    await follow(client, TERMINAL, hand.run_id, parsed("tail", hand.run_id, "--text"))
    assert capsys.readouterr().out == "half\n[attempt 2 says some of it again; the whole text that stands now:]\n"


async def test_a_take_over_is_told_in_a_line(
    client: Client, talk: HandAttempt, capsys: pytest.CaptureFixture[str]
) -> None:
    await follow(client, TERMINAL, talk.run_id, parsed("tail", talk.run_id, "--mode", "attempt"))
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith(" attempt 1 begins")
    assert second.endswith(" attempt 2 begins: worker hand was lost; 1 event is void")

    await follow(client, TERMINAL, talk.run_id, parsed("tail", talk.run_id, "--mode", "attempt", "--after", "1-0"))
    assert capsys.readouterr().out.endswith(" attempt 2 begins: the worker before was lost; 1 event is void\n")


@pytest.mark.parametrize(
    ("voids", "told"),
    [({"all": True, "count": 1234}, "1,234 events are void"), ({"tasks": [], "events": [], "count": 0}, "nothing is")],
)
async def test_a_take_over_says_how_much_is_void(
    client: Client, make_hand: MakeHand, voids: Any, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    hand = await make_hand()
    await hand.take_over(**voids)
    await hand.end()
    await follow(client, TERMINAL, hand.run_id, parsed("tail", hand.run_id))
    assert told in capsys.readouterr().out


async def test_raw_events_in_a_pipe_have_what_voids_go_by(cli: Processes, client: Client, talk: HandAttempt) -> None:
    found = (await cli.run("tail", talk.run_id)).json_lines
    assert [event.get("task") for event in found] == [None, "a", "b", None, "b", None]
    assert found[3]["data"]["voids"] == {"tasks": [{"id": "b", "name": "b", "ns": []}], "events": [], "count": 1}
    assert [event["data"] for event in found] == [event.data async for event in client.tail(talk.run_id)]


async def test_dead_letters_are_listed_and_requeued_once(cli: Processes, client: Client, make_hand: MakeHand) -> None:
    assert (await cli.run("dead")).out == ""
    hands = [await make_hand(max_attempts=1) for _ in range(2)]
    for hand in hands:
        await hand.lose()

    listed = await cli.run("dead", "--limit", "1")
    assert [info["run_id"] for info in listed.json_lines] == [hands[1].run_id]
    assert listed.json["holders"][0]["worker"] == "hand"

    again = await cli.run("requeue", *(hand.run_id for hand in hands))
    assert [told["requeued_from"] for told in again.json_lines] == [hand.run_id for hand in hands]
    assert {told["is_new"] for told in again.json_lines} == {True}
    for told in again.json_lines:
        assert (await client.get(told["run_id"])).metadata == {"requeued_from": told["requeued_from"]}
    assert (await cli.run("dead")).out == ""
    twice = await cli.run("requeue", hands[0].run_id)
    assert (twice.json["run_id"], twice.json["is_new"]) == (again.json_lines[0]["run_id"], False)


async def test_a_run_that_cannot_be_requeued_does_not_keep_the_others_from_it(
    cli: Processes, make_hand: MakeHand
) -> None:
    lost, nobody = await make_hand(max_attempts=1), new_run_id()
    await lost.lose()
    found = await cli.run("requeue", nobody, "nonsense", lost.run_id)
    assert (found.code, found.json["requeued_from"]) == (3, lost.run_id)
    first, second = found.err.splitlines()
    assert first.startswith(f"runstream: error: no run '{nobody}'")
    assert second.startswith("runstream: error: run_id: 'nonsense' is no run id")


async def test_dead_letters_in_a_terminal(
    client: Client, make_hand: MakeHand, capsys: pytest.CaptureFixture[str]
) -> None:
    hand = await make_hand(max_attempts=1)
    assert await runs.dead(parsed("dead"), client, TERMINAL) == 0
    assert capsys.readouterr().err == "runstream: there are no dead letters\n"
    await hand.lose()

    await runs.dead(parsed("dead"), client, Output(pretty=True, width=200))
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == ["RUN", "ENDED", "ATTEMPTS", "GRAPH", "ERROR"]
    # The end that the reaper wrote has the number 2, and is no attempt.
    assert row.split()[:3] == [hand.run_id, "0s", "1"]
    assert "WorkerLost: the lease of worker hand expired" in row

    await runs.requeue(parsed("requeue", hand.run_id), client, TERMINAL)
    await runs.requeue(parsed("requeue", hand.run_id), client, TERMINAL)
    told = capsys.readouterr()
    (again,) = {*told.out.split()}
    assert (await client.get(again)).metadata == {"requeued_from": hand.run_id}
    assert told.err.splitlines() == [
        f"runstream: run {hand.run_id} was requeued{before}; follow it with: runstream tail {again}"
        for before in ("", " before")
    ]


async def test_info_tells_who_had_a_run_and_why_it_waits(
    cli: Processes, client: Client, make_hand: MakeHand, capsys: pytest.CaptureFixture[str]
) -> None:
    hand = await make_hand()
    assert (await cli.run("info", hand.run_id)).json["waiting_for"] is None
    await hand.lose()

    record = (await cli.run("info", hand.run_id)).json
    graph = record["graph"]
    assert (record["failures"], record["max_attempts"], record["waiting_for"]["reason"]) == (1, 3, "worker")
    assert [(one["attempt"], one["worker"], one["cause"]) for one in record["holders"]] == [(1, "hand", "lost")]

    await info.info(parsed("info", hand.run_id), client, TERMINAL)
    lines = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    told = {name.strip(): value.strip() for name, value in lines.items()}
    assert told["attempts"] == "1 (1 of 3 failed)"
    assert told["attempt 1"].startswith("worker hand, lost at 20")
    assert told["waits"] == f"no live worker has graph '{graph}'; there is none"


async def test_info_counts_no_end_as_an_attempt_that_no_worker_wrote(
    cli: Processes, client: Client, make_hand: MakeHand, capsys: pytest.CaptureFixture[str]
) -> None:
    lost, stopped, never = [await make_hand(max_attempts=1, claim=claim) for claim in (True, True, False)]
    ended = await make_hand()
    await lost.lose()
    await stopped.leave()
    for hand in (stopped, never):
        await client.stop(hand.run_id)
    await ended.take_over()
    await ended.end()
    for hand, attempts, attempt in ((lost, 1, 2), (stopped, 1, 2), (never, 0, 1), (ended, 2, 2)):
        record = (await cli.run("info", hand.run_id)).json
        assert (record["attempts"], record["attempt"]) == (attempts, attempt)
        await info.info(parsed("info", hand.run_id), client, TERMINAL)
        (told,) = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("attempts ")]
        assert told[1] == str(attempts)


async def test_info_tells_which_workers_are_silent_and_counts_them_no_more(
    cli: Processes, client: Client, redis: Redis, namespace: str, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = Keys(namespace)
    now = (await redis.time())[0] * 1000
    for name, beat_at in (("alive", now), ("dead", now - 20_000)):
        said: dict[str, Any] = {
            "host": "h",
            "pid": 1,
            "graphs": "agent",
            "concurrency": 2,
            "version": "1",
            "running": 0,
        }
        said |= {"started_at": now - 60_000, "beat_at": beat_at}
        await redis.hset(keys.worker(name), mapping=said)  # type: ignore[misc] # redis-py's types
        await redis.zadd(keys.workers, {name: beat_at})
        for key in (keys.worker(name), keys.workers):
            await redis.expire(key, 60)

    told = (await cli.run("info")).json
    assert told["queues"] == [{"graph": "agent", "due": 0, "later": 0, "workers": 1}]
    assert {worker["worker_id"]: worker["silent"] for worker in told["workers"]} == {"alive": False, "dead": True}

    arguments = parsed("info", "--redis", client._url, "--namespace", namespace)
    await info.info(arguments, client, TERMINAL)
    rows = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    beats = {row[0]: [cell.strip() for cell in row if cell.strip()][3] for row in rows if row[0] in ("alive", "dead")}
    assert beats["dead"].endswith("s, silent")
    assert "silent" not in beats["alive"]


async def test_a_run_that_waits_for_a_worker_says_so_and_how_to_start_one(cli: Processes, client: Client) -> None:
    started = [await cli.start("enqueue", "nobodys", "{}", then) for then in ("--follow", "--result")]
    told = "no live worker has graph 'nobodys'; there is none; start one with: "
    await until(lambda: all(told in enqueue.err for enqueue in started), "the notes")
    for run in await client.runs():
        assert (await client.stop(run.run_id)).status is Status.STOPPED
    for enqueue in started:
        found = await enqueue.ended()
        assert (found.code, found.err.count(told)) == (1, 1)
        assert "runstream worker nobodys=FILE.py:GRAPH\n" in found.err


async def test_a_run_that_waits_for_its_thread_says_for_which(cli: Processes, hand: HandAttempt) -> None:
    enqueue = await cli.start("enqueue", "nobodys", "{}", "--text", "--thread", hand.run_id)
    await until(lambda: f"the run waits: run {hand.run_id} is on its thread\n" in enqueue.err, "the note")


async def test_a_run_that_begins_at_once_is_told_nothing_about(cli: Processes, talk: HandAttempt) -> None:
    assert (await cli.run("tail", talk.run_id)).err == ""


async def test_what_enqueue_is_told_is_what_is_enqueued(cli: Processes, client: Client) -> None:
    options = ["--max-attempts", "7", "--restartable", "--start-within", "60", "--thread", "t"]
    first = (await cli.run("enqueue", "nobodys", "{}", *options)).json
    assert (await client.get(first["run_id"])).max_attempts == 7
    kept = await client._records.request(first["run_id"])
    assert (kept.queued_ttl, b'"restartable":true' in kept.request) == (60_000, True)

    refused = await cli.run("enqueue", "nobodys", "{}", "--thread", "t", "--multitask-strategy", "reject")
    assert (refused.code, refused.err.count("\n")) == (1, 1)
    assert f"run {first['run_id']} is on thread 't'" in refused.err

    second = (await cli.run("enqueue", "nobodys", "{}", "--thread", "t", "--multitask-strategy", "interrupt")).json
    assert (await client.get(first["run_id"])).status is Status.STOPPED
    assert (await client.get(second["run_id"])).status is Status.QUEUED
    assert "'sometimes'" in (await cli.run("enqueue", "nobodys", "{}", "--multitask-strategy", "sometimes")).err
    assert (await cli.run("enqueue", "nobodys", "{}", "--max-attempts", "0")).code == 2


async def test_stop_with_rollback_asks_for_it(cli: Processes, client: Client, hand: HandAttempt) -> None:
    stopped = await cli.run("stop", hand.run_id, "--rollback")
    assert stopped.json == {"outcome": "stopping", "status": "running"}
    reply = await hand._scripts.beat(
        "hand", {hand.run_id: 1}, lease=3000, worker_ttl=60_000, running_ttl=60_000, about={"host": "h"}
    )
    assert reply.stop[hand.run_id].action == "rollback"


async def test_text_that_is_live_is_refused(client: Client, hand: HandAttempt) -> None:
    with pytest.raises(InvalidRequest, match="--live"):
        await follow(client, TERMINAL, hand.run_id, parsed("tail", hand.run_id, "--text", "--live"))
