"""What a project's `langgraph.json` says to the gateway: its entries `auth` and `http`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

from langgraph_sdk import Auth
from starlette.applications import Starlette

from runstream.errors import GraphLoadError
from runstream_gateway.auth.handlers import load_auth
from runstream_gateway.settings import Cors, HeaderRules
from runstream_worker.importing import import_file, import_module
from runstream_worker.langgraph_json import LanggraphJson, located

_AUTH_KEYS = {"path"}
_AUTH_IGNORED = {"disable_studio_auth", "cache", "openapi"}
_HTTP_KEYS = {"app", "cors", "mount_prefix", "configurable_headers", "enable_custom_route_auth"}
_CORS_LISTS = ("allow_origins", "allow_methods", "allow_headers", "expose_headers")
_CORS_OTHERS = {"allow_credentials": bool, "allow_origin_regex": str, "max_age": int}
_RESOURCES = ("assistants", "threads", "runs", "meta")
_DISABLED = (*_RESOURCES, "webhooks")
_NOT_THERE = ("store", "mcp", "a2a", "ui")


@dataclass(frozen=True)
class Project:
    """What a project wants of the gateway in front of it.

    Attributes:
        auth: its handlers, which say who may do what.
        app: its own routes, which come before the gateway's.
        guards_app: whether the project's own routes are only for callers that the guard knows.
        cors: who may call from a browser.
        mount_prefix: the path under which everything is.
        headers: which headers graphs are told.
        disabled: resources whose routes are not there; `webhooks` for runs that must not have any.
        warnings: what has no effect.
    """

    auth: Auth | None = None
    app: Starlette | None = None
    guards_app: bool = False
    cors: Cors = field(default_factory=Cors)
    mount_prefix: str = ""
    headers: HeaderRules = field(default_factory=HeaderRules)
    disabled: frozenset[str] = frozenset()
    warnings: tuple[str, ...] = ()


def read_project(config: LanggraphJson) -> Project:
    """Read and check a project's entries; its graphs have been loaded, so what it imports is importable.

    Raises:
        GraphLoadError: an entry is not what it should be, or what it names cannot be loaded.
    """
    return _Reader(config).read()


class _Reader:
    """Checks the entries of one file, and gathers the warnings."""

    def __init__(self, config: LanggraphJson) -> None:
        self._path = config.path
        self._auth: Mapping[str, Any] = config.gateway.get("auth", {})
        self._http: Mapping[str, Any] = config.gateway.get("http", {})
        self._warnings: list[str] = []

    def read(self) -> Project:
        known = _HTTP_KEYS | {f"disable_{name}" for name in (*_DISABLED, *_NOT_THERE)}
        self._warn_of(self._http.keys() - known, "http", "has no effect here")
        self._warn_of(self._auth.keys() - _AUTH_KEYS - _AUTH_IGNORED, "auth", "is unknown and has no effect")
        self._warn_of(self._auth.keys() & _AUTH_IGNORED, "auth", "has no effect here")
        return Project(
            auth=self._read_auth(),
            app=self._app(),
            guards_app=self._flag("enable_custom_route_auth"),
            cors=self._cors(self._part("cors")),
            mount_prefix=self._prefix(),
            headers=self._headers(self._part("configurable_headers")),
            disabled=frozenset(name for name in _DISABLED if self._flag(f"disable_{name}")),
            warnings=tuple(self._warnings),
        )

    def _read_auth(self) -> Auth | None:
        location = self._auth.get("path")
        if location is None:
            return None
        if not isinstance(location, str):
            self._fail("auth.path", f'must be "path/file.py:name" or "module:name", not {location!r}')
        with self._about("auth.path"):
            return load_auth(location, self._path.parent)

    def _app(self) -> Starlette | None:
        location = self._http.get("app")
        if location is None:
            return None
        place, colon, name = location.rpartition(":") if isinstance(location, str) else ("", "", "")
        if not colon or not place or not name:
            self._fail("http.app", f'must be "path/file.py:app" or "module:app", not {location!r}')
        is_file = "/" in place or place.endswith(".py")
        with self._about("http.app"):
            module = import_file(located(place, self._path.parent)) if is_file else import_module(place)
        app = getattr(module, name, None)
        if not isinstance(app, Starlette):
            self._fail(
                "http.app", f"{location!r} must name a Starlette or FastAPI application, not {type(app).__name__}"
            )
        if app.user_middleware:
            self._warn_of({"app"}, "http", "has middleware, which is for its own routes only")
        return app

    @contextmanager
    def _about(self, key: str) -> Iterator[None]:
        """Name the file, and the key, in what cannot be loaded."""
        try:
            yield
        except GraphLoadError as error:
            told = str(error).removeprefix(f"{key}: ")
            raise GraphLoadError(f"{self._path}: {key}: {told}") from error

    def _cors(self, given: Mapping[str, Any]) -> Cors:
        options: dict[str, Any] = {}
        for name, value in given.items():
            if name in _CORS_LISTS:
                options[name] = self._texts(f"http.cors.{name}", value)
            elif name in _CORS_OTHERS:
                if type(value) is not _CORS_OTHERS[name]:  # a boolean is an int
                    self._fail(f"http.cors.{name}", f"must be {_CORS_OTHERS[name].__name__}, not {value!r}")
                options[name] = value
            else:
                self._warn_of({name}, "http.cors", "is unknown and has no effect")
        if "allow_origin_regex" in options:
            self._check_pattern("http.cors.allow_origin_regex", options["allow_origin_regex"])
            options.setdefault("allow_origins", ())
        return Cors(**options)

    def _check_pattern(self, key: str, pattern: str) -> None:
        try:
            re.compile(pattern)
        except re.error as error:
            self._fail(key, f"{pattern!r} is no regular expression: {error}")

    def _headers(self, given: Mapping[str, Any]) -> HeaderRules:
        includes, excludes = given.get("includes", given.get("include")), given.get("excludes", given.get("exclude"))
        return HeaderRules(
            () if includes is None else self._patterns("includes", includes),
            () if excludes is None else self._patterns("excludes", excludes),
        )

    def _patterns(self, name: str, value: Any) -> tuple[str, ...]:
        return tuple(each.lower() for each in self._texts(f"http.configurable_headers.{name}", value))

    def _prefix(self) -> str:
        prefix = self._http.get("mount_prefix") or ""
        if prefix and (not isinstance(prefix, str) or not re.fullmatch(r"(/[^/{}?#]+)+", prefix)):
            self._fail("http.mount_prefix", f"{prefix!r} must be a path such as '/api'")
        return str(prefix)

    def _part(self, name: str) -> Mapping[str, Any]:
        value = self._http.get(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            self._fail(f"http.{name}", f"{value!r} must be an object")
        return value

    def _flag(self, name: str) -> bool:
        value = self._http.get(name, False)
        if not isinstance(value, bool):
            self._fail(f"http.{name}", f"{value!r} must be true or false")
        return value

    def _texts(self, key: str, value: object) -> tuple[str, ...]:
        if not isinstance(value, Sequence) or isinstance(value, str) or not all(isinstance(one, str) for one in value):
            self._fail(key, f"{value!r} must be a list of strings")
        return tuple(value)

    def _warn_of(self, keys: set[str], place: str, told: str) -> None:
        self._warnings += [f"{self._path}: '{place}.{key}' {told}" for key in sorted(keys)]

    def _fail(self, key: str, problem: str) -> NoReturn:
        raise GraphLoadError(f"{self._path}: {key!r} {problem}")
