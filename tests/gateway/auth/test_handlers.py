"""Handlers as they are written for LangGraph's server do here what they do there."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import pytest
from langgraph_sdk import Auth
from starlette.authentication import AuthenticationError, BaseUser, SimpleUser
from starlette.exceptions import HTTPException
from starlette.requests import Request
from tests.gateway.auth.connections import request, websocket

from runstream.errors import GraphLoadError
from runstream_gateway.auth.caller import Caller, Filter, Limits
from runstream_gateway.auth.guard import Action, Resource
from runstream_gateway.auth.handlers import HandlersGuard, load_auth
from runstream_gateway.errors import ApiError

THREAD = "01985d2e-6f1c-7b3a-9d44-0c5d6f6f2a11"


@dataclass
class Person:
    identity: str
    permissions: list[str] = field(default_factory=list)
    team: str = "red"


class WithIdentity(SimpleUser):
    """Starlette's own has none; that is for subclasses."""

    identity = "u3"


class Modelled:
    identity = "m1"
    display_name = "Em"
    is_authenticated = False

    def model_dump(self, mode: str) -> dict[str, Any]:
        return {"identity": "m1", "mode": mode, "since": UUID(THREAD)}


def guard_of(returned: Any, **options: Any) -> HandlersGuard:
    """A guard whose authentication handler returns this, or raises it."""
    auth = Auth()

    @auth.authenticate
    async def authenticate() -> Any:
        if isinstance(returned, BaseException):
            raise returned
        return returned

    return HandlersGuard(auth, **options)


async def refusal_of(guard: HandlersGuard) -> ApiError:
    with pytest.raises(ApiError) as refused:
        await guard.authenticate(request())
    return refused.value


# -- authentication ---------------------------------------------------------------------------------------------------


async def test_the_handler_gets_what_it_names() -> None:
    auth, got = Auth(), dict[str, Any]()

    @auth.authenticate
    async def authenticate(  # noqa: PLR0917 - all that there are
        request: Request,
        body: dict[str, Any],
        path: str,
        method: str,
        path_params: dict[str, str],
        query_params: Mapping[str, str],
        headers: dict[bytes, bytes],
        authorization: str | None,
        scope: Mapping[str, Any],
        scopes: list[str],
        user: Any,
        mine: str = "default",
    ) -> str:
        got.update(locals())
        return "u1"

    sent = request(
        "/threads/t1",
        method="PATCH",
        query="a=1&b=2",
        body={"metadata": {"a": 1}},
        path_params={"thread_id": "t1"},
        authorization="Bearer abc",
        x_mine="yes",
    )
    caller = await HandlersGuard(auth).authenticate(sent)
    assert caller.identity == "u1"
    assert got["request"].headers["x-mine"] == "yes"
    assert got["body"] == {"metadata": {"a": 1}}
    assert (got["path"], got["method"], got["path_params"]) == ("/threads/t1", "PATCH", {"thread_id": "t1"})
    assert dict(got["query_params"]) == {"a": "1", "b": "2"}
    assert got["headers"][b"x-mine"] == b"yes"
    assert got["authorization"] == "Bearer abc"
    assert got["scope"] is sent.scope
    assert (got["scopes"], got["user"], got["mine"]) == ([], None, "default")
    # The route can still read the body.
    assert await sent.json() == {"metadata": {"a": 1}}


async def test_without_the_header_authorization_is_none() -> None:
    auth = Auth()

    @auth.authenticate
    async def authenticate(authorization: str | None) -> str:
        if authorization is None:
            raise Auth.exceptions.HTTPException(status_code=401, detail="who are you?", headers={"X-Ask": "nicely"})
        return authorization.removeprefix("Bearer ")

    guard = HandlersGuard(auth)
    assert (await guard.authenticate(request(authorization="Bearer u1"))).identity == "u1"
    refused = await refusal_of(guard)
    assert (refused.status, refused.detail, refused.headers) == (401, "who are you?", {"X-Ask": "nicely"})


async def test_a_handler_that_blocks_blocks_a_thread_only() -> None:
    auth = Auth()

    def authenticate(headers: dict[bytes, bytes], **more: Any) -> str:
        return headers[b"x-user"].decode()

    auth.authenticate(authenticate)  # type: ignore[type-var] # LangGraph's server takes it
    assert (await HandlersGuard(auth).authenticate(request(x_user="u7"))).identity == "u7"


@pytest.mark.parametrize(
    ("returned", "identity", "display_name", "permissions"),
    [
        ("u1", "u1", "u1", ()),
        ({"identity": "u1"}, "u1", "u1", ()),
        ({"identity": "u1", "display_name": "Una", "permissions": ["a", "b"]}, "u1", "Una", ("a", "b")),
        ({"identity": "u1", "permissions": "a"}, "u1", "u1", ("a",)),
        (Person("u2", ["c"]), "u2", "u2", ("c",)),
        (Modelled(), "m1", "Em", ()),
        (WithIdentity("u3"), "u3", "u3", ()),
        (Person(7), "7", "7", ()),  # type: ignore[arg-type]
        ((["d"], "u4"), "u4", "u4", ("d",)),
        ((["d"], {"identity": "u4", "permissions": ["not these"]}), "u4", "u4", ("d",)),
    ],
)
async def test_what_a_user_may_be(
    returned: Any, identity: str, display_name: str, permissions: tuple[str, ...]
) -> None:
    caller = await guard_of(returned, limits=Limits(runs=3)).authenticate(request())
    assert (caller.identity, caller.display_name) == (identity, display_name)
    assert caller.limits == Limits(runs=3)
    assert caller.user["identity"] == identity
    assert caller.permissions == tuple(caller.user["permissions"]) == permissions


async def test_graphs_get_all_that_is_known_of_the_user_as_json() -> None:
    told = {"identity": "u1", "org": {"id": UUID(THREAD)}, "roles": ["x"]}
    caller = await guard_of(told).authenticate(request())
    assert caller.user == {
        "identity": "u1",
        "display_name": "u1",
        "is_authenticated": True,
        "permissions": [],
        "org": {"id": THREAD},
        "roles": ["x"],
    }
    modelled = await guard_of(Modelled()).authenticate(request())
    assert modelled.user["mode"] == "json"
    assert modelled.user["is_authenticated"] is False


@pytest.mark.parametrize("returned", [None, 7, {"name": "u1"}, object(), ("a", "b", "c"), {"identity": None}])
async def test_what_is_no_user_lets_nobody_in(returned: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert (await refusal_of(guard_of(returned))).status == 500
    assert "authentication handler has failed" in caplog.text


@pytest.mark.parametrize(
    ("raised", "status", "detail"),
    [
        (Auth.exceptions.HTTPException(), 401, "Unauthorized"),
        (Auth.exceptions.HTTPException(status_code=403, detail="not you"), 403, "not you"),
        (Auth.exceptions.HTTPException(status_code=429, detail="slower"), 429, "slower"),
        (HTTPException(401, "starlette's"), 401, "starlette's"),
        (AuthenticationError("no such token"), 403, "no such token"),
    ],
)
async def test_a_refusal_is_the_answer(raised: BaseException, status: int, detail: str) -> None:
    refused = await refusal_of(guard_of(raised))
    assert (refused.status, refused.detail) == (status, detail)


@pytest.mark.parametrize("raised", [RuntimeError("the secret is 42"), AssertionError("the secret is 42")])
async def test_a_handler_that_fails_tells_the_log_and_not_the_caller(
    raised: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    refused = await refusal_of(guard_of(raised))
    assert refused.status == 500
    assert "42" not in refused.detail
    assert "42" in caplog.text


async def test_over_a_websocket_there_is_no_request() -> None:
    auth = Auth()

    @auth.authenticate
    async def authenticate(request: Request) -> str:
        return "u1"

    with pytest.raises(ApiError) as refused:
        await HandlersGuard(auth).authenticate(websocket())
    assert refused.value.status == 403

    by_header = Auth()

    @by_header.authenticate
    async def by_headers(headers: dict[bytes, bytes], method: str) -> str:
        return f"{headers[b'x-user'].decode()} by {method}"

    assert (await HandlersGuard(by_header).authenticate(websocket(x_user="u1"))).identity == "u1 by GET"


# -- authorization ----------------------------------------------------------------------------------------------------


async def ask(
    auth: Auth,
    action: Action = "read",
    value: dict[str, Any] | None = None,
    *,
    resource: Resource = "threads",
    user: Any = "u1",
) -> Filter:
    """What a guard with these handlers says to what user `u1` wants to do."""
    if auth._authenticate_handler is None:

        @auth.authenticate
        async def authenticate() -> Any:
            return user

    guard = HandlersGuard(auth)
    caller = await guard.authenticate(request())
    return await guard.authorize(caller, resource, action, {} if value is None else value)


async def test_without_handlers_everything_is_allowed() -> None:
    assert not await ask(Auth())


async def test_the_most_specific_handler_is_asked_alone() -> None:
    auth, asked = Auth(), list[str]()

    @auth.on
    async def everything(ctx: Any, value: Any) -> Any:
        asked.append("everything")

    @auth.on(actions="delete")
    async def deleting(ctx: Any, value: Any) -> Any:
        asked.append("deleting")

    @auth.on.threads
    async def threads(ctx: Any, value: Any) -> Any:
        asked.append("threads")

    @auth.on.threads.create
    async def creating(ctx: Any, value: Any) -> Any:
        asked.append("creating")

    await ask(auth, "create")
    await ask(auth, "delete")
    await ask(auth, "delete", resource="assistants")
    await ask(auth, "read", resource="assistants")
    assert asked == ["creating", "threads", "deleting", "everything"]


@pytest.mark.parametrize(("returned", "conditions"), [(None, {}), (True, {}), ({}, {}), ({"owner": "u1"},) * 2])
async def test_what_a_handler_may_return(returned: Any, conditions: dict[str, Any]) -> None:
    auth = Auth()

    @auth.on
    async def on(ctx: Any, value: Any) -> Any:
        return returned

    assert (await ask(auth)).conditions == conditions


@pytest.mark.parametrize(
    ("outcome", "status", "detail"),
    [
        (False, 403, "Forbidden"),
        (Auth.exceptions.HTTPException(status_code=404, detail="no such thing"), 404, "no such thing"),
        (AssertionError("not yours"), 403, "not yours"),
        (AssertionError(), 403, "Forbidden"),
        (RuntimeError("42"), 500, "the authorization handler has failed"),
        ("yes", 500, "the authorization handler returned str; it returns a filter, None or a boolean"),
        (0, 500, "the authorization handler returned int; it returns a filter, None or a boolean"),
    ],
)
async def test_how_a_handler_refuses(outcome: Any, status: int, detail: str) -> None:
    auth = Auth()

    @auth.on
    async def on(ctx: Any, value: Any) -> Any:
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    with pytest.raises(ApiError) as refused:
        await ask(auth)
    assert (refused.value.status, refused.value.detail) == (status, detail)


async def test_the_handler_knows_who_wants_what() -> None:
    auth, got = Auth(), list[Any]()

    @auth.on
    async def on(ctx: Auth.types.AuthContext, value: dict[str, Any]) -> None:
        user: Any = ctx.user
        got.append((ctx.resource, ctx.action, list(ctx.permissions), value["thread_id"]))
        got.append(
            (user.identity, user["identity"], user.get("none"), "org" in user, user.org.name, user["org"]["name"])
        )
        got.append((user.display_name, user.is_authenticated, list(user.permissions), sorted(user)))
        assert not hasattr(user, "team")

    await ask(auth, "read", {"thread_id": THREAD}, user={"identity": "u1", "permissions": ["p"], "org": {"name": "o"}})
    assert got == [
        ("threads", "read", ["p"], THREAD),
        ("u1", "u1", None, True, "o", "o"),
        ("u1", True, ["p"], ["display_name", "identity", "is_authenticated", "org", "permissions"]),
    ]


async def test_an_object_keeps_its_attributes_and_a_user_class_its_kind() -> None:
    auth, seen = Auth(), list[Any]()

    class Own(BaseUser):
        identity = "u9"
        display_name = "Nine"
        is_authenticated = True

    @auth.on
    async def on(ctx: Any, value: Any) -> None:
        seen.append(ctx.user.team if not isinstance(ctx.user, Own) else "own")

    await ask(auth, user=Person("u1"))
    auth._authenticate_handler = None
    await ask(auth, user=Own())
    assert seen == ["red", "own"]


@pytest.mark.parametrize("action", ["create", "update", "create_run"])
@pytest.mark.parametrize("value", [{}, {"metadata": None}, {"metadata": {"a": 1}}])
async def test_what_a_handler_puts_into_the_metadata_is_there(
    action: Literal["create", "update", "create_run"], value: dict[str, Any]
) -> None:
    auth, before = Auth(), dict(value.get("metadata") or {})
    value = copy.deepcopy(value)

    @auth.on
    async def on(ctx: Any, value: dict[str, Any]) -> dict[str, str]:
        value.setdefault("metadata", {}).update({"owner": ctx.user.identity, "id": UUID(THREAD)})
        return {"owner": ctx.user.identity}

    sent = value.get("metadata")
    found = await ask(auth, action, value)
    assert sent is None or sent is value["metadata"]
    assert value["metadata"] == {**before, "owner": "u1", "id": THREAD}
    assert found.matches(value["metadata"])


async def test_what_a_handler_puts_in_the_place_of_the_metadata_is_what_the_route_has() -> None:
    auth = Auth()
    metadata: dict[str, Any] = {"a": 1}

    @auth.on
    async def on(ctx: Any, value: dict[str, Any]) -> None:
        value["metadata"] = {"owner": ctx.user.identity}

    await ask(auth, "create", {"metadata": metadata})
    assert metadata == {"owner": "u1"}


async def test_metadata_that_is_made_nothing_of_the_kind_is_a_failure() -> None:
    auth = Auth()

    @auth.on
    async def on(ctx: Any, value: dict[str, Any]) -> None:
        value["metadata"] = None

    with pytest.raises(ApiError) as refused:
        await ask(auth, "create", {})
    assert refused.value.status == 500


async def test_the_store_is_confined_by_its_namespace() -> None:
    auth = Auth()

    @auth.on.store
    async def on(ctx: Any, value: dict[str, Any]) -> None:
        value["namespace"] = (ctx.user.identity, *value["namespace"])

    value = {"namespace": ("memories",), "key": "k"}
    await ask(auth, "get", value, resource="store")
    assert value["namespace"] == ("u1", "memories")


# -- loading ----------------------------------------------------------------------------------------------------------

MODULE = """
from langgraph_sdk import Auth
auth = Auth()
something = 7

@auth.authenticate
async def authenticate(authorization: str | None) -> str:
    return "u1"
"""


async def test_the_object_is_found_where_langgraph_json_says(tmp_path: Path) -> None:
    (tmp_path / "security").mkdir()
    (tmp_path / "security" / "auth.py").write_text(MODULE)
    auth = load_auth("./security/auth.py:auth", tmp_path)
    assert (await HandlersGuard(auth).authenticate(request())).identity == "u1"
    assert load_auth("./security/auth.py:auth", tmp_path) is auth


@pytest.mark.parametrize(
    ("location", "told"),
    [
        ("./auth.py", "must be path/file.py:name"),
        ("./auth.py:", "must be path/file.py:name"),
        ("./auth.ts:auth", "JavaScript"),
        ("./none.py:auth", "there is no file"),
        ("no_such_module_here:auth", "there is no module"),
        ("./auth.py:missing", "there is none"),
        ("./auth.py:something", "'something' is int"),
    ],
)
def test_what_is_not_there_is_told_at_start(tmp_path: Path, location: str, told: str) -> None:
    (tmp_path / "auth.py").write_text(MODULE)
    with pytest.raises(GraphLoadError, match=told):
        load_auth(location, tmp_path)


def test_an_object_that_cannot_work_is_told_at_start() -> None:
    with pytest.raises(GraphLoadError, match=r"@auth\.authenticate"):
        HandlersGuard(Auth())
    auth = Auth()

    @auth.authenticate
    async def authenticate(database: Any) -> str:
        return "u1"

    with pytest.raises(GraphLoadError, match="wants 'database'"):
        HandlersGuard(auth)


async def test_what_no_handler_is_for_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    auth = Auth()

    @auth.authenticate
    async def authenticate() -> str:
        return "u1"

    HandlersGuard(auth)
    assert not caplog.records

    @auth.on.threads
    async def threads(ctx: Any, value: Any) -> None:
        return None

    with caplog.at_level(logging.WARNING):
        HandlersGuard(auth)
    assert "assistants.delete" in caplog.text
    assert "threads" not in caplog.text

    @auth.on
    async def everything(ctx: Any, value: Any) -> bool:
        return False

    caplog.clear()
    HandlersGuard(auth)
    assert not caplog.records


def test_a_caller_can_be_shown_without_what_the_handlers_know(caplog: pytest.LogCaptureFixture) -> None:
    assert "secret" not in repr(Caller("u1", principal="secret"))
