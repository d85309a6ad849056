"""`runstream demo --kill`: a worker process that is killed for real, and what two readers make of it."""

from __future__ import annotations

import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import psutil
import pytest
from tests.support.attempts import HandAttempt
from tests.support.openai_server import OpenAIServer, Text
from tests.support.openai_server import Status as Refused
from tests.support.processes import Processes
from tests.support.waiting import until

from runstream import Client, ClientSettings, Status, Voids
from runstream.cli.terminal import Output
from runstream_worker.commands.demo.kill import Report
from runstream_worker.commands.demo.reader import Reader
from runstream_worker.commands.demo.screen import Columns, Lines, Nothing, Screen

MakeHand: TypeAlias = Callable[..., Awaitable[HandAttempt]]
Read: TypeAlias = Callable[[str, Screen], Awaitable[Reader]]
CALLS = "[calls current_time(), calculate(6 * 7)]"


@pytest.fixture
async def cli(redis_url: str, namespace: str, tmp_path: Path) -> AsyncIterator[Processes]:
    async with Processes(redis_url, namespace, tmp_path) as processes:
        yield processes


async def test_in_a_pipe_both_readers_are_told_and_begin_anew(cli: Processes) -> None:
    demo = await cli.start("demo", "--kill")
    lines = [await demo.line()]
    while not (kill := re.fullmatch(r"  kill -9 (\d+): worker (\S+) is dead", lines[-1])):
        lines.append(await demo.line())
    await until(lambda: not _lives(int(kill[1])), "the worker is dead")
    assert not demo.has_ended

    found = await demo.ended()
    lines += found.out.splitlines()

    assert (found.code, found.err) == (0, "")
    for reader in "AB":
        told = [line for line in lines if re.match(rf"  {reader} [│┃] ", line)]
        (at,) = (at for at, line in enumerate(told) if line.startswith(f"  {reader} ┃"))
        assert re.fullmatch(
            rf"  {reader} ┃ worker {kill[2]} was killed: \d\d tokens are void\. "
            r"Worker \S+ goes on from checkpoint \w+, at step model\.",
            told[at],
        )
        before, after = (_joined(part) for part in (told[:at], told[at + 1 :]))
        assert before.startswith(f"{CALLS} The tool says: ")
        assert before.count("6 * 7 = 42") == after.count("6 * 7 = 42") == 1
        assert not before.endswith("restart the worker.")
        assert after.startswith(before)
        assert after.endswith("restart the worker.")
    assert "✗" not in found.out
    assert "no token lost, none twice" in found.out


def _joined(lines: list[str]) -> str:
    return " ".join(line[6:] for line in lines)


async def test_its_figures_are_those_of_the_run(cli: Processes, client: Client, redis_url: str, namespace: str) -> None:
    found = await cli.run("demo", "--kill", "--json", "--redis", redis_url, "--namespace", namespace)
    told = found.json

    assert (found.code, found.err) == (0, "")
    info = await client.get(told["run_id"])
    events = [event async for event in client.tail(told["run_id"])]
    (killed,) = info.holders
    assert (killed.worker, killed.cause, killed.attempt) == (told["killed_worker"], "lost", 1)
    assert (info.worker, info.attempt, info.status) == (told["next_worker"], 2, Status.SUCCESS)
    assert told["killed_exit_code"] == -signal.SIGKILL
    assert told["end"] == events[-1].data
    (voids,) = (voids for event in events if (voids := Voids.of(event)) and voids.attempt > 1)
    assert told["void_events"] == voids.count == sum(map(voids.covers, events)) == told["void_tokens"] >= 14
    assert told["events"] == len(events)
    assert told["readers_saw_the_same"] is told["text_equals_result"] is True
    # The lease runs from the last beat, at most a second before the kill.
    assert 1.5 < told["seconds_to_take_over"] < 30


async def test_what_the_model_says_otherwise_the_second_time_takes_the_place_of_the_first(cli: Processes) -> None:
    first, second = [f"one{n} " for n in range(60)], [f"two{n} " for n in range(20)]
    async with OpenAIServer([Text(first, delay=0.05), Text(second)]) as server:
        environment = {"OPENAI_API_KEY": "test", "OPENAI_BASE_URL": server.url}
        found = await cli.run("demo", "--kill", "--json", environment=environment)

    assert found.code == 0, found.out + found.err
    assert found.json["tokens"] == len(second)
    assert 14 <= found.json["void_tokens"] < len(first)
    assert found.json["text_equals_result"]


async def test_an_answer_too_short_to_be_cut_off_is_said_to_be(cli: Processes) -> None:
    async with OpenAIServer([Text(["Too", " short"])]) as server:
        environment = {"OPENAI_API_KEY": "test", "OPENAI_BASE_URL": server.url}
        found = await cli.run("demo", "--kill", environment=environment)

    assert found.code == 1
    assert found.err == (
        "runstream: error: the run was over before its worker was dead; --prompt can ask for a longer answer\n"
    )


async def test_a_run_that_fails_by_itself_is_said_to(cli: Processes) -> None:
    async with OpenAIServer([Refused(400, "not today")]) as server:
        environment = {"OPENAI_API_KEY": "test", "OPENAI_BASE_URL": server.url}
        found = await cli.run("demo", "--kill", environment=environment)

    assert found.code == 1
    assert re.match(r"runstream: error: run \S+ failed: .*not today", found.err)


async def test_interrupting_it_while_nobody_has_the_run_leaves_nothing(cli: Processes) -> None:
    demo = await cli.start("demo", "--kill")
    while "prompt" not in await demo.line():
        pass
    family = psutil.Process(demo.pid).children(recursive=True)
    while "kill -9" not in await demo.line():
        pass

    demo.send(signal.SIGINT)

    found = await demo.ended()
    assert (found.code, found.err) == (130, "")
    assert len(family) >= 4
    assert not any(_lives(process.pid) for process in family)


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# -- what it shows of a take-over, and when it says that something is wrong --------------------------------------------


@pytest.fixture
async def talk(make_hand: MakeHand) -> HandAttempt:
    """A run that was taken over: what its second task had said is void."""
    hand = await make_hand(stream_mode="messages")
    await hand.say("Done.", "a")
    await hand.say("Half a sen", "b")
    await hand.lose()
    await hand.claim("another")
    await hand.open(
        checkpoint="1f1e-2", voids={"tasks": [{"id": "b", "name": "b", "ns": []}], "events": [], "count": 1}
    )
    await hand.say("Whole.", "b", "another message")
    await hand.end()
    return hand


@pytest.fixture
def read(redis_url: str, namespace: str) -> Read:
    """Has a reader read a run."""

    async def read(run_id: str, screen: Screen) -> Reader:
        reader = Reader("A reads", screen)
        await reader.read(Client(redis_url, settings=ClientSettings(namespace=namespace)), run_id)
        return reader

    return read


async def test_what_is_void_goes_from_the_column_and_a_notice_stands_in_its_place(
    talk: HandAttempt, read: Read, capsys: pytest.CaptureFixture[str]
) -> None:
    screen = Columns(Output(pretty=True, terminal=True, colour=True, width=60), ["A reads", "B is late"])
    await read(talk.run_id, screen)
    screen.foot("beneath")
    frames = _frames(capsys.readouterr().out)
    screen.close()
    (last,) = _frames(capsys.readouterr().out)

    notice = [
        "┃ worker hand was killed:",
        "┃ 1 token is void. Worker",
        "┃ another goes on from",
        "┃ checkpoint 1f1e, at step",
        "┃ b.",
    ]
    assert ["Done.", "Half a sen"] in frames
    assert ["Done.", *notice] in frames
    assert frames[-1] == ["Done.", *notice, "Whole.", "", "beneath"]
    assert last == ["Done.", *notice, "Whole."]


def _frames(written: str) -> list[list[str]]:
    """What was drawn, each time, without styles."""
    plain = re.sub(r"\x1b\[[\d;]*m", "", written)
    drawn = (part.partition("\x1b[")[0] for part in plain.split("\x1b[J")[1:])
    return [[line.strip() for line in one.rstrip("\n").split("\n")] for one in drawn]


async def test_lines_say_again_what_stands(talk: HandAttempt, read: Read, capsys: pytest.CaptureFixture[str]) -> None:
    screen = Lines(Output(pretty=True), ["A reads"])
    await read(talk.run_id, screen)
    screen.close()

    told = [line.strip() for line in capsys.readouterr().out.splitlines() if " │ " in line or " ┃ " in line]
    assert told == [
        "A │ Done.",
        "A │ Half a sen",
        "A ┃ worker hand was killed: 1 token is void. Worker another goes on from checkpoint 1f1e, at step b.",
        "A │ Done.",
        "A │ Whole.",
    ]


async def test_a_report_is_well_only_if_all_of_it_is(talk: HandAttempt, make_hand: MakeHand, read: Read) -> None:
    readers = await read(talk.run_id, Nothing()), await read(talk.run_id, Nothing())
    report = Report(talk.run_id, "hand", -signal.SIGKILL, 1.0, "Done.Whole.", readers)
    other = await make_hand(stream_mode="messages")
    await other.say("Done.Whole.")
    await other.end()
    elsewhere = await read(other.run_id, Nothing())

    assert report.all_well
    assert not replace(report, result_text="Done.Whole").all_well
    assert not replace(report, result_text="Done.Half a senWhole.").all_well
    assert not replace(report, code=-signal.SIGTERM).all_well
    assert not replace(report, killed="another").all_well
    assert not replace(report, readers=(readers[0], elsewhere)).all_well
