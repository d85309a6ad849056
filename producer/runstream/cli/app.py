"""`runstream`: the parser, and the one place where errors become exit codes.

Packages add commands through the entry-point group `runstream.commands`: each entry is a function that takes
`Commands`. The worker's come in that way, so that the light package never imports upward; what such a function imports,
every call of `runstream` pays for.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import Any, NoReturn

from redis.exceptions import RedisError

from runstream import __version__
from runstream.cli import info, runs
from runstream.cli.exits import EXIT_CODES, Exit, explain
from runstream.cli.session import redis_url, with_client
from runstream.cli.terminal import complain, flush_stdout, give_up_stdout, occupy_standard_streams
from runstream.errors import RunstreamError
from runstream.model import STRATEGIES, STREAM_MODES, Status
from runstream.redaction import redact

_GROUP = "runstream.commands"
_EVENT_MODES = (*STREAM_MODES, "attempt", "end", "gap")
_COMMON_HELPS = {
    "redis": "of Redis; else RUNSTREAM_REDIS_URL, else the local one",
    "namespace": "else RUNSTREAM_NAMESPACE, else 'runstream'",
    "json": "lines of JSON, as in a pipe",
}
_ABOUT = """\
Run LangGraph agents on workers; publish every chunk to a stream that any number
of readers tail.

  runstream demo                              Redis, a worker, two readers: see it work
  runstream dev my_agent.py:graph             a Redis, a worker that reloads: develop
  runstream enqueue agent "Hello!" --text     enqueue a run and read the answer"""


class Commands:
    """Takes sub-commands; a package's `runstream.commands` entry point is called with it."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", dest="name", required=True)

    def group(self, name: str, *, about: str, example: str) -> Commands:
        """Add a command that has commands of its own, and nothing else; returns what takes these."""
        return Commands(self._parser(name, about, example))

    def add(
        self,
        name: str,
        run: Callable[[argparse.Namespace], int],
        *,
        about: str,
        example: str,
        helps: Mapping[str, str] | None = None,
    ) -> argparse.ArgumentParser:
        """Add a command, with the options that all have.

        Args:
            name: the command's.
            run: does it, and returns the exit code.
            about: what it does, in a line.
            example: lines that can be copied.
            helps: what is said of the options that all have (redis, namespace, json) where it is something else here.

        Returns:
            Its parser, for the command's own arguments.
        """
        parser = self._parser(name, about, example)
        parser.set_defaults(run=run)
        common = parser.add_argument_group("everywhere")
        said = {**_COMMON_HELPS, **(helps or {})}
        common.add_argument("--redis", metavar="URL", help=said["redis"])
        common.add_argument("--namespace", metavar="NS", help=said["namespace"])
        common.add_argument("--json", action="store_true", help=said["json"])
        return parser

    def _parser(self, name: str, about: str, example: str) -> argparse.ArgumentParser:
        indented = "\n".join(f"  {line}" for line in example.strip().splitlines())
        return self._subparsers.add_parser(
            name,
            help=about,
            description=f"{about[0].upper()}{about[1:]}.",
            epilog=f"example:\n{indented}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    occupy_standard_streams()
    url = ""
    try:
        args = _parse(given)
        url = redis_url(args)
        return int(args.run(args))
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # `| head` has read enough. What is still buffered must not be written when the interpreter ends.
        give_up_stdout()
        return Exit.OK
    except (RunstreamError, RedisError) as error:
        code, told = explain(error, url)
        complain(f"runstream: error: {redact(told, given)}")
        return code


def _parse(given: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments; `--help` and `--version` end here, when they have been written."""
    try:
        return _parser().parse_args(given)
    except SystemExit:
        flush_stdout()
        raise


class _Parser(argparse.ArgumentParser):
    """Refuses arguments without quoting the password of a URL that is among them."""

    _given: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self._given = list(args or ())
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        super().error(redact(message, self._given))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        "runstream",
        description=_ABOUT,
        epilog=f"{EXIT_CODES}\n\n`runstream COMMAND --help` tells more, with an example.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"runstream {__version__}")
    commands = Commands(parser)
    for entry in metadata.entry_points(group=_GROUP):
        entry.load()(commands)
    for add in (_add_enqueue, _add_tail, _add_result, _add_stop, _add_runs, _add_dead, _add_requeue, _add_info):
        add(commands)
    return parser


def _add_enqueue(commands: Commands) -> None:
    parser = commands.add(
        "enqueue",
        with_client(runs.enqueue, before=runs.take_input),
        about="enqueue a run, and follow it if you like",
        example="""
runstream enqueue agent "What time is it?" --text
runstream enqueue agent '{"messages": [["user", "hi"]]}' --mode updates --mode messages -f
echo '{"number": 21}' | runstream enqueue math - --result
runstream enqueue agent --thread t-1 --command '{"resume": "yes"}'""",
    )
    parser.add_argument("graph", metavar="GRAPH", help="the name under which workers have it")
    parser.add_argument(
        "input", metavar="INPUT", nargs="?", help="a JSON object; or - to read it from stdin; or a user's message"
    )
    then = parser.add_argument_group("then").add_mutually_exclusive_group()
    then.add_argument("-f", "--follow", action="store_true", help="show the run's events until its end")
    then.add_argument("--text", action="store_true", help="show the model's text as it comes; streams `messages`")
    then.add_argument("--result", action="store_true", help="wait for the result and show it")
    _add_settled(parser)
    _add_graph_options(parser.add_argument_group("the graph's, as in LangGraph's astream"))
    _add_run_options(parser.add_argument_group("the run's"))


def _add_graph_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--mode", action="append", metavar="MODE", help=f"repeatable: {', '.join(STREAM_MODES)}")
    group.add_argument("--config", metavar="JSON", help="configurable, tags, metadata, recursion_limit")
    group.add_argument("--context", metavar="JSON")
    group.add_argument("--command", metavar="JSON", help="an object of resume, update, goto, in place of an input")
    group.add_argument("--durability", choices=("sync", "async", "exit"))
    group.add_argument("--subgraphs", action="store_true", help="stream the subgraphs' chunks, too")
    for when in ("before", "after"):
        group.add_argument(f"--interrupt-{when}", action="append", metavar="NODE", help="repeatable; '*' is every node")
    group.add_argument("--stream-version", choices=("v1", "v2"), help="of astream's chunks (v1)")
    group.add_argument("--print-mode", action="append", metavar="MODE", help="repeatable; printed by the worker")
    group.add_argument("--debug", action="store_true", help="print what the graph does, on the worker")
    group.add_argument("--output-keys", action="append", metavar="KEY", help="repeatable; one alone gives its value")


def _add_run_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--thread", metavar="ID", help="the conversation; each run has its own unless told otherwise")
    group.add_argument("--run-id", metavar="UUID", help="the same id with the same request is the same run")
    group.add_argument("--idempotency-key", metavar="KEY", help="the same key with the same request is the same run")
    group.add_argument("--metadata", metavar="JSON", help="kept in the run's record")
    group.add_argument("--delay", type=float, metavar="SECONDS", help="until the run may start")
    group.add_argument("--start-at", metavar="TIME", help="when the run may start, such as 2026-01-31T09:00:00+01:00")
    group.add_argument("--timeout", type=float, metavar="SECONDS", help="that an attempt may take")
    group.add_argument("--retention", type=float, metavar="SECONDS", help="that its record and stream are kept")
    group.add_argument("--continues", action="append", metavar="UUID", help="repeatable; a run that ended early")
    group.add_argument("--start-within", type=float, metavar="SECONDS", help="after it is due; else it ends as lost")
    group.add_argument(
        "--multitask-strategy", choices=STRATEGIES, metavar="STRATEGY",
        help=f"if a run is on the thread: {', '.join(STRATEGIES)}; enqueue, that is wait, unless told otherwise",
    )  # fmt: skip
    group.add_argument("--max-attempts", type=int, metavar="N", help="how many workers may die with it (3)")
    group.add_argument("--restartable", action="store_true", help="without checkpoints, start over when a worker dies")
    group.add_argument(
        "--strict-json",
        action=argparse.BooleanOptionalAction,
        help="whether a value that has no JSON form ends the run",
    )


def _add_tail(commands: Commands) -> None:
    parser = commands.add(
        "tail",
        with_client(runs.tail),
        about="show a run's events, from the start until its end, while it runs or later",
        example="""
runstream tail 01985d2e-6f1c-7b3a-9d44-0c5d6f6f2a11 --text
runstream tail 01985d2e-6f1c-7b3a-9d44-0c5d6f6f2a11 --after 1-15 | jq .data""",
    )
    parser.add_argument("run_id", metavar="RUN_ID")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--after", metavar="ID", help="go on behind this event, such as 1-15")
    where.add_argument("--live", action="store_true", help="begin with what comes from now on")
    parser.add_argument(
        "--text", action="store_true",
        help="only the model's text; the run has to stream `messages`. In a terminal it comes as it is generated; if a "
        "take-over voids some of it, the whole text follows behind a line that says so. In a pipe it comes settled; "
        "with --json, each piece says whether it replaces those before",
    )  # fmt: skip
    _add_settled(parser)
    parser.add_argument("--node", action="append", metavar="NODE", help="only this node's messages and updates")
    parser.add_argument(
        "--ns", action="append", metavar="NS",
        help="only this namespace's events (repeatable): a subgraph by the name of its node, '' for the graph itself, "
        "'*' for all; with --node and without --ns the graph itself",
    )  # fmt: skip
    parser.add_argument(
        "--mode", dest="only", action="append", choices=_EVENT_MODES, metavar="MODE",
        help="only these events (repeatable): a stream mode, or attempt, end, gap",
    )  # fmt: skip


def _add_settled(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--settled", action=argparse.BooleanOptionalAction, default=None,
        help="show an event or text only once no later attempt can void it, so that each comes exactly once; a task's "
        "text then comes when the task has finished (the default of --text in a pipe; --no-settled shows it at once)",
    )  # fmt: skip


def _add_result(commands: Commands) -> None:
    parser = commands.add(
        "result",
        with_client(runs.result),
        about="wait for a run and show what it returned",
        example="runstream result 01985d2e-6f1c-7b3a-9d44-0c5d6f6f2a11",
    )
    parser.add_argument("run_id", metavar="RUN_ID")


def _add_stop(commands: Commands) -> None:
    parser = commands.add(
        "stop",
        with_client(runs.stop),
        about="stop a run; what it has saved stays saved",
        example='runstream stop 01985d2e-6f1c-7b3a-9d44-0c5d6f6f2a11 --reason "the user left"',
    )
    parser.add_argument("run_id", metavar="RUN_ID")
    parser.add_argument("--reason", default="", help="is kept in the run's record")
    parser.add_argument("--rollback", action="store_true", help="remove from the thread what the run has saved")


def _add_runs(commands: Commands) -> None:
    parser = commands.add(
        "runs",
        with_client(runs.runs),
        about="list the newest runs",
        example="runstream runs --status error --limit 5",
    )
    parser.add_argument(
        "--status", choices=[status.value for status in Status], metavar="STATUS", help=", ".join(Status)
    )
    parser.add_argument("--limit", type=int, default=20, metavar="N", help="how many at most (20)")


def _add_dead(commands: Commands) -> None:
    parser = commands.add(
        "dead",
        with_client(runs.dead),
        about="list the dead letters: runs that were lost, with who had them",
        example="runstream dead --limit 5\nrunstream dead | jq -r .run_id | xargs runstream requeue",
    )
    parser.add_argument("--limit", type=int, default=20, metavar="N", help="how many at most (20)")


def _add_requeue(commands: Commands) -> None:
    parser = commands.add(
        "requeue",
        with_client(runs.requeue),
        about="enqueue runs again that were lost, failed, timed out or were stopped",
        example="runstream requeue 01985d2e-6f1c-7b3a-9d44-0c5d6f6f2a11",
    )
    parser.add_argument("run_ids", metavar="RUN_ID", nargs="+")


def _add_info(commands: Commands) -> None:
    parser = commands.add(
        "info",
        with_client(info.info),
        about="show a run's record; without a run: Redis, the queues and the workers",
        example="runstream info\nrunstream info 01985d2e-6f1c-7b3a-9d44-0c5d6f6f2a11",
    )
    parser.add_argument("run_id", metavar="RUN_ID", nargs="?")
