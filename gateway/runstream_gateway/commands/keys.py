"""`runstream keys`: make, list and revoke the API keys of gateways."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

from runstream import Client
from runstream.apikeys import LIMIT_NAMES, ApiKey, ApiKeys
from runstream.cli.app import Commands
from runstream.cli.exits import CommandError, Exit
from runstream.cli.render import fields, table
from runstream.cli.session import with_client
from runstream.cli.terminal import Output
from runstream.usage import owner_subject

_HELPS = {
    "request_bytes": "largest body of a request",
    "streams": "open streams at a time",
    "runs": "runs that have not ended",
    "rate": "requests a second, in the long run",
    "burst": "requests at once",
    "stored_bytes": "bytes that its owner keeps",
    "thread_bytes": "bytes of a single thread",
    "threads": "threads that its owner keeps",
    "assistants": "assistants that its owner keeps",
    "kept_runs": "runs that its owner keeps, also those that have ended",
    "webhooks": "webhooks that have not been taken",
}
_HEAD = ("ID", "NAME", "OWNER", "MADE", "ENDS", "LIMITS")


def add(commands: Commands) -> None:
    """Add `runstream keys` with its commands."""
    keys = commands.group(
        "keys",
        about="API keys of gateways: make, list and revoke them",
        example="runstream keys create backend\nrunstream keys list\nrunstream keys revoke 3f2a90c1d4e5b6a7980c1d2e",
    )
    create = keys.add(
        "create",
        with_client(_create),
        about="make a key; it is shown once",
        example="""
runstream keys create backend
runstream keys create alice --owner alice@example.com --expires 30 --streams 20 --rate 5
runstream keys create batch --runs none --stored-bytes 1073741824""",
    )
    create.add_argument("key_name", metavar="NAME", help="what it is for")
    create.add_argument(
        "--owner", metavar="X", help="whose threads and assistants it sees; else NAME. Keys of one owner share them"
    )
    create.add_argument("--expires", type=_days, metavar="DAYS", help="else it lapses when unused for 400 days")
    limits = create.add_argument_group("limits, where they differ from the gateway's; `none` for no limit")
    for name in LIMIT_NAMES:
        kind = _rate if name == "rate" else _count
        option = f"--{name.replace('_', '-')}"
        limits.add_argument(option, type=kind, default=argparse.SUPPRESS, metavar="N", help=_HELPS[name])
    keys.add("list", with_client(_list), about="list the keys", example="runstream keys list")
    show = keys.add(
        "show",
        with_client(_show),
        about="show a key, and what its owner keeps of what is limited",
        example="runstream keys show 3f2a90c1d4e5b6a7980c1d2e",
    )
    show.add_argument("key_id", metavar="ID")
    usage = keys.add(
        "usage",
        with_client(_usage),
        about="show what a user of a project's own handlers keeps, or all who call a gateway that asks nobody",
        example="runstream keys usage\nrunstream keys usage alice@example.com",
    )
    usage.add_argument("owner", metavar="OWNER", nargs="?", default="", help="the identity; else callers without one")
    revoke = keys.add(
        "revoke",
        with_client(_revoke),
        about="end keys, and the read tokens that were made with them; gateways notice within seconds",
        example="runstream keys revoke 3f2a90c1d4e5b6a7980c1d2e",
    )
    revoke.add_argument("key_ids", metavar="ID", nargs="+")


async def _create(args: argparse.Namespace, client: Client, output: Output) -> int:
    limits = {name: getattr(args, name) for name in LIMIT_NAMES if hasattr(args, name)}
    key, made = await ApiKeys(client).create(args.key_name, owner=args.owner, days=args.expires, limits=limits)
    if not output.pretty:
        output.json({"key": key, **_told(made)})
        return Exit.OK
    for line in fields({"key": key, "id": made.id, "owner": made.owner, "ends": _when(made.expires_at)}, output):
        output.line(line)
    output.note("the key is not shown again: Redis has its hash only")
    return Exit.OK


async def _list(args: argparse.Namespace, client: Client, output: Output) -> int:  # noqa: ARG001 - as all commands
    keys = ApiKeys(client)
    made = await keys.count_made()
    found = await keys.all()
    if gone := made - len(found):
        output.note(f"keys that were not revoked and are gone: {gone}; they have lapsed, or Redis has lost them")
    if not output.pretty:
        for key in found:
            output.json(_told(key))
        return Exit.OK
    for line in table([_row(key) for key in found], _HEAD, output):
        output.line(line)
    return Exit.OK


async def _show(args: argparse.Namespace, client: Client, output: Output) -> int:
    key = await ApiKeys(client).get(args.key_id)
    if key is None:
        raise CommandError(f"there is no key {args.key_id}; `runstream keys list` shows their ids", Exit.NOT_FOUND)
    use = asdict(await client.usage.measure(owner_subject(key.owner)))
    if not output.pretty:
        output.json({**_told(key), "use": use})
        return Exit.OK
    about = {"id": key.id, "name": key.name, "owner": key.owner, "made": _when(key.created_at)}
    for line in fields({**about, "ends": _when(key.expires_at), "limits": _limits(key.limits), **_use(use)}, output):
        output.line(line)
    return Exit.OK


async def _usage(args: argparse.Namespace, client: Client, output: Output) -> int:
    use = asdict(await client.usage.measure(owner_subject(args.owner)))
    if not output.pretty:
        output.json({"owner": args.owner, "use": use})
        return Exit.OK
    for line in fields(_use(use), output):
        output.line(line)
    return Exit.OK


def _use(use: Mapping[str, int]) -> dict[str, str]:
    return {name: f"{count:,}" for name, count in use.items()}


async def _revoke(args: argparse.Namespace, client: Client, output: Output) -> int:
    keys = ApiKeys(client)
    missing = [key_id for key_id in args.key_ids if not await keys.revoke(key_id)]
    for key_id in args.key_ids:
        if key_id not in missing:
            output.line(f"{key_id} revoked") if output.pretty else output.json({"id": key_id, "revoked": True})
    if missing:
        raise CommandError(
            f"there is no key {', '.join(missing)}; `runstream keys list` shows their ids", Exit.NOT_FOUND
        )
    return Exit.OK


def _told(key: ApiKey) -> dict[str, Any]:
    times = {"created_at": key.created_at.isoformat(), "expires_at": key.expires_at and key.expires_at.isoformat()}
    return {**asdict(key), **times}


def _row(key: ApiKey) -> list[str]:
    return [key.id, key.name, key.owner, _when(key.created_at), _when(key.expires_at), _limits(key.limits)]


def _when(time: datetime | None) -> str:
    return "-" if time is None else time.strftime("%Y-%m-%d %H:%M UTC")


def _limits(limits: Mapping[str, float | None]) -> str:
    return " ".join(f"{name}={'none' if value is None else f'{value:g}'}" for name, value in limits.items()) or "-"


def _days(text: str) -> float:
    days = _number(text)
    if not 0 < days <= 400:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number of days, up to 400")
    return days


def limit(text: str) -> tuple[str, float | None]:
    """Read a limit such as `threads=1000`.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    name, _, number = text.partition("=")
    name = name.replace("-", "_")
    if name not in LIMIT_NAMES:
        raise argparse.ArgumentTypeError(f"{text!r} must be NAME=N with a NAME of {', '.join(LIMIT_NAMES)}")
    return name, (_rate if name == "rate" else _count)(number)


def _count(text: str) -> int | None:
    if text == "none":
        return None
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number, or `none`")
    return int(text)


def _rate(text: str) -> float | None:
    if text == "none":
        return None
    rate = _number(text)
    if not 0 < rate < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number over 0, or `none`")
    return rate


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan  # is in no range
