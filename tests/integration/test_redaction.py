"""Passwords: no part of one is shown, by whatever way its URL comes in and however wrong it is written."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.processes import Processes

from runstream import Client, InvalidRequest
from runstream.redaction import RedactingFormatter, redact, redact_url
from runstream_worker.checkpoints import CheckpointerError, open_checkpointer
from runstream_worker.settings import WorkerSettings

LEFT, RIGHT = "hunter", "dragon"
"""The halves of a password, between which stands what should have been percent-encoded."""
WRITTEN = [
    f"{LEFT}{mark}{RIGHT}" for mark in ("/", "?", "#", "@", ":", "%", " ", "[", "]", "\\", "'", ",", "/?#@:", "\n")
]
PLACES = [
    "redis://:{}@127.0.0.1:1/0", "redis://me:{}@127.0.0.1:1", "rediss://me:{}@127.0.0.1:1/0", "unix://me:{}@/no/such",
    "sentinel://:{}@127.0.0.1:1/service", "sentinel://127.0.0.1:1,127.0.0.1:2/service?sentinel_password={}",
    "redis://127.0.0.1:1/0?password={}", "redis://127.0.0.1:1/0?db={}", "redis://:{}x@", "redis://me:{}?@",
    "redis:/:{}@127.0.0.1", "://:{}@127.0.0.1:1", "me:{}@127.0.0.1:1", "htp://:{}@127.0.0.1",
]  # fmt: skip
CHECKPOINTERS = [
    "redis://:{}@127.0.0.1:1/0", "postgresql://me:{}@127.0.0.1:1/db", "postgres://me:{}@127.0.0.1:1/db?connect_timeout=2",
    "postgresql://127.0.0.1:1/db?password={}", "mysql://me:{}@127.0.0.1/db",
    "sqlite://me:{}@nowhere/x.db", "me:{}@127.0.0.1:1", "postgresql:/me:{}@127.0.0.1/db",
]  # fmt: skip


WITHOUT_HOST = ["redis://:{}", "redis://me:{}", "redis://:{}/0", "postgresql://me:{}", "redis://me:{}?db=1"]
"""Where there is no host, a password with an `@` cannot be told from one with a host."""


@pytest.fixture
async def cli(redis_url: str, namespace: str, tmp_path: Path) -> AsyncIterator[Processes]:
    async with Processes(redis_url, namespace, tmp_path) as processes:
        yield processes


def check(text: str) -> None:
    """Neither half of the password stands in it."""
    assert LEFT not in text, text
    assert RIGHT not in text, text


@pytest.mark.parametrize("place", PLACES)
async def test_a_client_shows_no_part_of_a_password_whatever_is_wrong_with_its_url(place: str) -> None:
    for password in WRITTEN:
        try:
            async with Client(place.format(password)) as client:
                await client.ping()
        except Exception as error:  # noqa: BLE001 - whatever it is
            check(f"{error} {error!r}")


@pytest.mark.parametrize("place", WITHOUT_HOST)
async def test_a_password_that_no_host_follows_is_none(place: str) -> None:
    for password in WRITTEN:
        if "@" not in password:
            with pytest.raises((InvalidRequest, CheckpointerError)) as refused:
                async with open_checkpointer(place.format(password)):
                    pytest.fail("it was opened")
            check(f"{refused.value} {redact_url(place.format(password))}")


@pytest.mark.parametrize("place", CHECKPOINTERS)
async def test_a_checkpointer_shows_no_part_of_a_password_whatever_is_wrong_with_its_url(place: str) -> None:
    for password in WRITTEN:
        with pytest.raises((InvalidRequest, CheckpointerError)) as refused:
            async with open_checkpointer(place.format(password)):
                pytest.fail("it was opened")
        check(str(refused.value))


@pytest.mark.parametrize("place", [*PLACES, *CHECKPOINTERS])
@pytest.mark.parametrize("password", WRITTEN)
def test_what_is_shown_of_a_url_has_no_part_of_its_password(place: str, password: str) -> None:
    check(redact_url(place.format(password)))
    check(redact_url(place.format(password) + " and more"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["runs", "--redis", "{}"],
        ["worker", "--redis", "{}"],
        ["gateway", "--redis", "{}"],
        ["info", "--redsi", "{}"],
        ["info", "--redsi={}"],
        ["worker", "--checkpointer={}", "--concurrency", "{}"],
        ["worker", "{}"],
        ["gateway", "--port", "{}"],
        ["{}"],
        ["runs", "--status", "{}"],
    ],
    ids=" ".join,
)
async def test_no_command_quotes_a_password(cli: Processes, arguments: list[str]) -> None:
    for password in ("hunter/dragon", "hunter#@ dragon"):
        url = f"redis://:{password}@127.0.0.1:1/0"
        found = await cli.run(*(argument.format(url) for argument in arguments))
        assert found.code in (1, 2, 4)
        assert "Traceback" not in found.err
        check(found.err + found.out)


def test_a_url_that_is_right_is_shown_but_for_its_password() -> None:
    for url, shown in {
        "redis://me:secret@redis:6379/0?db=1": "redis://me:***@redis:6379/0?db=1",
        "redis://me:se%40cret@[::1]:6379/0": "redis://me:***@[::1]:6379/0",
        "sentinels://:x@one:26379,two/main?sentinel_password=y": "sentinels://:***@one:26379,two/main?...",
        "postgresql://me:x@db:5432/runs?sslmode=require": "postgresql://me:***@db:5432/runs?sslmode=require",
        "sqlite:////data/threads.db": "sqlite:////data/threads.db",
        "localhost:6379": "localhost:6379",
    }.items():
        assert redact_url(url) == shown


@pytest.mark.parametrize(
    "text",
    [
        "ERR unknown command 'AUTH', with args beginning with: 'default' 'hunter' 'dragon' ",
        "connection failed: host=db password='hunter dragon' user=me",
        "could not connect with postgresql://me:hunter@db/x, and redis://:dragon@h",
        'settings: {"password": "hunterdragon"}',
    ],
)
def test_what_libraries_log_is_shown_without_passwords(text: str) -> None:
    check(redact(text))
    record = logging.LogRecord("redis", logging.WARNING, __file__, 1, "failed: %s", (text,), None)
    check(RedactingFormatter("%(message)s").format(record))


def test_settings_do_not_show_urls_when_they_are_printed() -> None:
    check(repr(WorkerSettings(redis_url="redis://:hunter@h", checkpointer_url="postgresql://me:dragon@h/db")))
