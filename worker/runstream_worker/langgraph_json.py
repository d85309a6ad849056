"""Reads `langgraph.json`, the file in which LangGraph projects name their graphs.

A worker uses `graphs`, `dependencies` (local folders become importable), `env` and `checkpointer`; `auth` and `http`
are the gateway's. Every other key is left alone and reported, so that nobody believes that, say, `store` took effect.
Nothing is changed by reading: what to put on `sys.path` and into the environment is returned.
"""

from __future__ import annotations

import difflib
import importlib.metadata
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any, NoReturn

from runstream.errors import GraphLoadError, InvalidRequest
from runstream.request import check_graph_name

_USED = ("graphs", "dependencies", "env", "checkpointer")
_GATEWAY = ("auth", "http")
_BUILD = frozenset(
    {"python_version", "node_version", "api_version", "image_distro", "base_image", "dockerfile_lines"}
    | {"pip_config_file", "pip_installer", "source", "keep_pkg_tools"}
)
_SERVER = frozenset({"store", "encryption", "ui", "ui_config"})
_SILENT = frozenset({"$schema"})

_MOST_MINUTES = 1e7
_REQUIREMENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class ConfiguredGraph:
    """One entry of `graphs`: its id, where it is (`path.py:attr` or `module:attr`), and what it is for."""

    name: str
    location: str
    description: str | None = None


@dataclass(frozen=True)
class ConfiguredCheckpointer:
    """The entry `checkpointer`.

    Attributes:
        location: where the project's own is, `/path/file.py:attr` or `module:attr`; None where it has none.
        ttl: how long a thread is kept after it was last written to, in seconds; None where that is not said.
        classes: of which checkpoints may hold objects, `module:Class` each: `serde.allowed_msgpack_modules`.
    """

    location: str | None = None
    ttl: float | None = None
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class LanggraphJson:
    """What a worker takes from a `langgraph.json`.

    Attributes:
        env: the variables to set; None for those to remove.
        gateway: the entries that are the gateway's, as they stand.
    """

    path: Path
    graphs: tuple[ConfiguredGraph, ...]
    import_paths: tuple[Path, ...]
    env: Mapping[str, str | None]
    warnings: tuple[str, ...]
    checkpointer: ConfiguredCheckpointer = field(default_factory=ConfiguredCheckpointer)
    gateway: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def located(place: str, folder: Path) -> Path:
    """Where a path of the file is: below the file's folder, or else below the current one, as `langgraph dev` has it.

    Args:
        place: the path as it stands in the file.
        folder: the file's.
    """
    beside, here = folder / place, Path.cwd() / place
    return here if here.exists() and not beside.exists() else beside


def read_langgraph_json(path: Path) -> LanggraphJson:
    """Read and check the file; paths in it are relative to its own folder, or else to the current one.

    Raises:
        GraphLoadError: the file or one of the keys that a worker uses is not what it should be.
    """
    return _Reader(path.resolve()).read()


def _is_class(entry: object) -> bool:
    return isinstance(entry, list) and len(entry) == 2 and all(isinstance(part, str) and part for part in entry)


class _Reader:
    """Checks one file; holds its path for the messages and gathers the warnings."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._folder = path.parent
        self._warnings: list[str] = []

    def read(self) -> LanggraphJson:
        document = self._document()
        self._warn_of_unused(document)
        return LanggraphJson(
            path=self._path,
            graphs=self._graphs(document),
            import_paths=self._import_paths(document.get("dependencies", [])),
            env=self._env(document.get("env", {})),
            checkpointer=self._checkpointer(document.get("checkpointer")),
            gateway={key: self._object(key, document.get(key)) for key in _GATEWAY},
            warnings=tuple(self._warnings),
        )

    def _document(self) -> dict[str, Any]:
        text = self._text(self._path)
        try:
            document = json.loads(text, object_pairs_hook=self._without_duplicates)
        except json.JSONDecodeError as error:
            raise GraphLoadError(f"{self._path}:{error.lineno}:{error.colno}: not JSON: {error.msg}") from error
        if not isinstance(document, dict):
            self._fail(None, f'must be an object such as {{"graphs": {{...}}}}, not {_json_type(document)}')
        return document

    def _text(self, path: Path) -> str:
        try:
            return path.read_text(encoding="utf-8-sig")
        except OSError as error:
            raise GraphLoadError(f"{path}: cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise GraphLoadError(f"{path}: not UTF-8 text: {error.reason} at byte {error.start}") from error

    def _without_duplicates(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        """An object as it is, or an error: JSON itself would let the last of two equal keys win, silently."""
        result = dict(pairs)
        if len(result) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            self._fail(twice, "is there twice in one object; keep one")
        return result

    def _warn_of_unused(self, document: Mapping[str, Any]) -> None:
        for key in document:
            # What an image is built from concerns nobody who starts a worker, and would hide what does.
            if key in _USED or key in _GATEWAY or key in _SILENT or key in _BUILD:
                continue
            if key == "webhooks":
                reason = "has no effect: webhooks are set up by options of `runstream gateway`"
            elif key in _SERVER:
                reason = "has no effect: runstream has no such thing"
            else:
                reason = f"is unknown and has no effect{_did_you_mean(key, _USED + _GATEWAY)}"
            self._warn(key, reason)

    def _graphs(self, document: Mapping[str, Any]) -> tuple[ConfiguredGraph, ...]:
        graphs = document.get("graphs")
        example = '{"chat": "./agent.py:graph"}'
        if not isinstance(graphs, dict) or not graphs:
            found = "is missing" if graphs is None else f"is {_json_type(graphs)}"
            self._fail("graphs", f"{found}; it must be an object with one entry per graph, such as {example}")
        return tuple(self._graph(name, entry) for name, entry in graphs.items())

    def _graph(self, name: str, entry: object) -> ConfiguredGraph:
        key = f"graphs.{name}"
        try:
            check_graph_name(name)
        except InvalidRequest as error:
            self._fail("graphs", f"has an entry whose name no graph can have: {error}")
        description = None
        if isinstance(entry, dict):
            for unknown in entry.keys() - {"path", "description"}:
                self._warn(f"{key}.{unknown}", "is unknown and has no effect; a graph has 'path' and 'description'")
            description = entry.get("description")
            if description is not None and not isinstance(description, str):
                self._fail(f"{key}.description", f"must be a string, not {_json_type(description)}")
            entry = entry.get("path")
        if not isinstance(entry, str) or not entry.strip():
            right = '"path/file.py:attr", "module:attr" or {"path": ..., "description": ...}'
            self._fail(key, f"must be {right}, not {_json_type(entry)}")
        return ConfiguredGraph(name, entry, description)

    def _object(self, key: str, entry: object) -> dict[str, Any]:
        if entry is None:
            return {}
        if not isinstance(entry, dict):
            self._fail(key, f"must be an object, not {_json_type(entry)}")
        return entry

    def _checkpointer(self, entry: object) -> ConfiguredCheckpointer:
        configured = self._object("checkpointer", entry)
        for unused in configured.keys() - {"path", "ttl", "serde"}:
            self._warn(f"checkpointer.{unused}", "has no effect; a checkpointer has 'path', 'ttl' and 'serde'")
        location = configured.get("path")
        if location is not None and (not isinstance(location, str) or ":" not in location):
            self._fail("checkpointer.path", f'must be "path/file.py:attr" or "module:attr", not {location!r}')
        ttl = self._ttl(configured.get("ttl"))
        if location is not None and ttl is not None:
            self._warn("checkpointer.ttl", "removes no checkpoints: those of 'checkpointer.path' are its own to remove")
        return ConfiguredCheckpointer(self._absolute(location), ttl, self._classes(configured.get("serde")))

    def _classes(self, entry: object) -> tuple[str, ...]:
        """The classes of which checkpoints may hold objects; the file says each as `["module", "Class"]`."""
        serde = self._object("checkpointer.serde", entry)
        for unused in serde.keys() - {"allowed_msgpack_modules"}:
            self._warn(
                f"checkpointer.serde.{unused}", "has no effect: checkpoints are MessagePack, never pickle or JSON"
            )
        named = serde.get("allowed_msgpack_modules") or []
        if not isinstance(named, list) or not all(_is_class(each) for each in named):
            self._fail(
                "checkpointer.serde.allowed_msgpack_modules",
                f'must be a list of classes, such as [["my_agent.state", "Order"]], not {named!r}',
            )
        return tuple(":".join(each) for each in named)

    def _absolute(self, location: str | None) -> str | None:
        """A location that means the same in every folder."""
        if location is None:
            return None
        place, _, attribute = location.rpartition(":")
        is_file = "/" in place or place.endswith(".py")
        return f"{located(place, self._folder).resolve()}:{attribute}" if is_file else location

    def _ttl(self, entry: object) -> float | None:
        """How long threads are kept, in seconds; the file says it in minutes."""
        ttl = self._object("checkpointer.ttl", entry)
        for unused in ttl.keys() - {"strategy", "default_ttl"}:
            self._warn(f"checkpointer.ttl.{unused}", "has no effect: Redis removes a thread when its time is over")
        if ttl.get("strategy", "delete") != "delete":
            self._fail("checkpointer.ttl.strategy", f"must be 'delete', not {ttl['strategy']!r}")
        minutes = ttl.get("default_ttl")
        if minutes is None:
            return None
        if isinstance(minutes, bool) or not isinstance(minutes, int | float) or not 0 < minutes < _MOST_MINUTES:
            self._fail("checkpointer.ttl.default_ttl", f"must be a number of minutes over 0, not {minutes!r}")
        return minutes * 60.0

    def _import_paths(self, dependencies: object) -> tuple[Path, ...]:
        if not isinstance(dependencies, list):
            self._fail("dependencies", f'must be a list such as ["."], not {_json_type(dependencies)}')
        paths: list[Path] = []
        for position, dependency in enumerate(dependencies):
            key = f"dependencies[{position}]"
            if not isinstance(dependency, str) or not dependency.strip():
                self._fail(key, f"must be a folder or a package, as a string, not {_json_type(dependency)}")
            if dependency.startswith((".", "/")):
                paths.extend(self._local_dependency(key, dependency))
            else:
                self._check_installed(key, dependency)
        return tuple(paths)

    def _local_dependency(self, key: str, dependency: str) -> list[Path]:
        folder = located(dependency, self._folder).resolve()
        if not folder.is_dir():
            self._fail(key, f"{dependency!r} is not a folder (looked for {folder})")
        # A project in the src layout that has not been installed is importable from there only.
        source = folder / "src"
        return [folder, source] if source.is_dir() else [folder]

    def _check_installed(self, key: str, requirement: str) -> None:
        """Warn of a package that is not there: a worker installs nothing."""
        name = _REQUIREMENT_NAME.match(requirement)
        if name is None:
            self._fail(key, f"{requirement!r} is neither a folder (start it with './') nor a package's name")
        try:
            importlib.metadata.distribution(name.group())
        except importlib.metadata.PackageNotFoundError:
            self._warn(key, f"{requirement!r} is not installed, and a worker installs nothing: pip install it")

    def _env(self, env: object) -> dict[str, str | None]:
        if isinstance(env, str):
            return self._env_file(env) if env.strip() else {}
        if not isinstance(env, dict):
            self._fail("env", f"must be an object of strings or the path of an env file, not {_json_type(env)}")
        for name, value in env.items():
            if not isinstance(value, str):
                self._fail(f"env.{name}", f'must be a string (write "{json.dumps(value)}"), not {_json_type(value)}')
        return env

    def _env_file(self, location: str) -> dict[str, str | None]:
        """Read an env file; `${NAME}` stands for a variable of the file, else of the environment.

        A file that is missing is no error: `.env` is in no repository, and whoever deploys sets the variables.
        """
        # Not above: every call of `runstream` imports this module, also where only the bare package is installed.
        from dotenv import dotenv_values  # noqa: PLC0415
        from dotenv.parser import parse_stream  # noqa: PLC0415

        path = located(location, self._folder).resolve()
        if not path.exists():
            self._warn("env", f"has no effect: there is no file {path}")
            return {}
        if path.is_dir():
            self._fail("env", f"{location!r} is a folder, not an env file ({path})")
        text = self._text(path)
        for unread in (binding.original for binding in parse_stream(StringIO(text)) if binding.error):
            self._warn("env", f"leaves out what is not NAME=value: {path}:{unread.line}")
        return dict(dotenv_values(stream=StringIO(text)))

    def _warn(self, key: str, reason: str) -> None:
        self._warnings.append(f"{self._path}: {key!r} {reason}")

    def _fail(self, key: str | None, problem: str) -> NoReturn:
        raise GraphLoadError(f"{self._path}: {problem}" if key is None else f"{self._path}: {key!r} {problem}")


def _json_type(value: object) -> str:
    names = {type(None): "nothing", bool: "a boolean", str: "a string", list: "a list", dict: "an object"}
    kind = names.get(type(value), "a number")
    return f"an empty {kind.split()[-1]}" if value in ("", [], {}) else kind


def _did_you_mean(name: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
