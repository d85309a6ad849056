"""The OpenAPI page, taken at its word by a machine: what it allows and what it does not allow, tried out.

`RUNSTREAM_FUZZ_EXAMPLES` is how many requests are made of each operation and kind; 4 when it is not set.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final, cast

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from tests.gateway.served import Served, check_it_still_serves, served_beside, turn

_EXAMPLES: Final = int(os.environ.get("RUNSTREAM_FUZZ_EXAMPLES", "4"))
_DEADLINE: Final = 30.0
_ENDLESS: Final = ("GET", "/threads/{thread_id}/stream")
_CHECKS: Final = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def gateway() -> Iterator[Served]:
    with served_beside() as gateway:
        yield gateway


@pytest.mark.timeout(0 if "RUNSTREAM_FUZZ_EXAMPLES" in os.environ else 120)
def test_the_page_is_right_and_nothing_breaks(gateway: Served) -> None:
    schema = schemathesis.openapi.from_url(f"{gateway.url}/openapi.json")
    operations: list[Any] = [found.ok() for found in cast("Any", schema.get_all_operations())]
    assert len(operations) > 40
    failures = []
    with requests.Session() as session:
        fuzzer = _Fuzzer(gateway, session)
        for operation in operations:
            try:
                fuzzer.fuzz(operation)
            except (AssertionError, FailureGroup) as error:
                failures.append(f"{operation.label}: {_told(error)}")
    assert not failures, "\n\n".join(failures)
    assert {200, 204, 404, 422} <= set(fuzzer.statuses), fuzzer.statuses
    assert "Traceback" not in gateway.process.err, gateway.process.err
    with asyncio.Runner() as runner:
        runner.run(check_it_still_serves(gateway))


def _told(error: BaseException) -> str:
    parts = error.exceptions if isinstance(error, FailureGroup) else ()
    return "\n".join([str(error), *map(str, parts)])


class _Fuzzer:
    def __init__(self, gateway: Served, session: requests.Session) -> None:
        self._gateway = gateway
        self._session = session
        self._ids: dict[str, str] = {}
        self.statuses: Counter[int] = Counter()

    def fuzz(self, operation: APIOperation[Any, Any, Any, Any]) -> None:
        """Make requests of one operation, as the page has them and otherwise, of what is there and what is not."""
        self._make_something_to_find()
        strategies = [
            operation.as_strategy(generation_mode=mode) for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
        ]

        @settings(
            max_examples=_EXAMPLES * len(strategies),
            deadline=None,
            database=None,
            phases=[Phase.generate, Phase.shrink] if _EXAMPLES > 4 else [Phase.generate],
            suppress_health_check=list(HealthCheck),
            derandomize="RUNSTREAM_FUZZ_EXAMPLES" not in os.environ,
        )
        @given(case=st.one_of(strategies), is_known=st.booleans())
        def check(case: Case[Any], is_known: bool) -> None:
            if is_known:
                self._name_what_is_there(case)
            _let_it_end(case)
            before = self._gateway.written()
            response = self._answer(case)
            self.statuses[response.status_code] += 1
            case.validate_response(response, checks=_CHECKS)
            if response.status_code >= 400:
                _check_refusal(response)
                after = self._gateway.written()
                assert all(after[kind] <= before[kind] for kind in before), f"{response.text}: {before} -> {after}"

        check()

    def _make_something_to_find(self) -> None:
        url = self._gateway.url
        thread = self._session.post(f"{url}/threads", json={}).json()["thread_id"]
        run = self._session.post(f"{url}/threads/{thread}/runs", json=turn("hi")).json()["run_id"]
        self._session.get(f"{url}/threads/{thread}/runs/{run}/join")
        state = self._session.get(f"{url}/threads/{thread}/state").json()
        assistant = self._session.post(f"{url}/assistants", json={"graph_id": "chat"}).json()["assistant_id"]
        self._ids = {
            "thread_id": thread,
            "run_id": run,
            "checkpoint_id": state["checkpoint_id"],
            "assistant_id": assistant,
            "graph_id": "chat",
        }

    def _name_what_is_there(self, case: Case[Any]) -> None:
        for place in (case.path_parameters, case.body):
            if isinstance(place, dict):
                place.update({name: value for name, value in self._ids.items() if isinstance(place.get(name), str)})

    def _answer(self, case: Case[Any]) -> requests.Response:
        """The whole answer, or as much as has come by the deadline of a stream that does not end."""
        is_endless = (case.method, case.path) == _ENDLESS
        deadline = time.monotonic() + (0.2 if is_endless else _DEADLINE)
        request = case.as_transport_kwargs(base_url=self._gateway.url)
        request |= {"stream": True, "allow_redirects": False, "timeout": 0.2 if is_endless else _DEADLINE}
        response = self._session.request(**request)
        parts = []
        try:
            for part in response.iter_content(None):
                parts.append(part)
                assert is_endless or time.monotonic() < deadline, "it does not end"
                if time.monotonic() > deadline:
                    break
        except requests.exceptions.ConnectionError:
            # Where nothing comes for so long, requests says that it is this.
            assert is_endless
        response.close()
        response._content = b"".join(parts)
        return response


def _let_it_end(case: Case[Any]) -> None:
    """A run that may begin in ten years is right, and not to be waited for."""
    bodies: Any = case.body if isinstance(case.body, list) else [case.body]
    for body in bodies:
        if isinstance(body, dict) and isinstance(body.get("after_seconds"), int | float):
            body["after_seconds"] = min(body["after_seconds"], 0.05)


def _check_refusal(response: requests.Response) -> None:
    body = json.loads(response.text)
    assert list(body) == ["detail"], body
    assert isinstance(body["detail"], str)
    assert body["detail"]
    assert len(body["detail"].splitlines()) == 1
    assert "Traceback" not in body["detail"]
