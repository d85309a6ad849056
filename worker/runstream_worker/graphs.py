"""Name -> graph: turns a worker's targets into graphs that its runs open.

A target is `[NAME=]TARGET`, where TARGET is one of

    module:attr           an importable module; the current folder is importable
    path/file.py:attr     a file, relative to the current folder; its own folder is importable, too
    langgraph.json        every graph that the file names (see `langgraph_json`)

`attr` is a compiled graph, a `StateGraph`, or a factory (see `factories`): a function or context manager, sync or
async, that is called for every run. Without `:attr` it is `graph`, or else `agent`, or else the only graph in the
module. Without `NAME=` a graph is called `agent` if it is the only target, and by its attribute otherwise.

Modules are run once, when the targets are loaded; factories are only looked at then, and called when a run opens them.
A graph that cannot be loaded does not keep the others from being served: opening it raises what was wrong.
What was made importable stays so, since graphs import lazily as well.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from inspect import isasyncgen, isawaitable, isclass, isgenerator, ismodule
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn, TypeAlias

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import StateGraph
from langgraph.pregel import Pregel

from runstream.errors import GraphLoadError
from runstream_worker.factories import Access, Factory, is_function, takes_only_what_is_given
from runstream_worker.importing import NameTaken, import_file, import_module, make_importable
from runstream_worker.infrastructure import Unavailable, is_transient
from runstream_worker.langgraph_json import LanggraphJson, located, read_langgraph_json
from runstream_worker.strict_serializer import with_classes_of

Graph: TypeAlias = Pregel[Any, Any, Any, Any]

# A name with one of `/ \\ : =` can be given by a langgraph.json only: here it could be a part of a path.
_NAMED = re.compile(r"([^./\\:=][^/\\:=]*)=(.*)", re.DOTALL)
_OWN_VARIABLES = ("RUNSTREAM_", "LANGGRAPH_STRICT_MSGPACK")
_DEFAULT_NAME = "agent"
_JAVASCRIPT = re.compile(r"\.[cm]?[jt]sx?(:|$)")
_DEFAULT_ATTRIBUTES = ("graph", "agent")


@dataclass(frozen=True)
class Target:
    """What the user named: `name` is None where it was left out, `location` is all that follows `NAME=`."""

    name: str | None
    location: str

    def __str__(self) -> str:
        return self.location if self.name is None else f"{self.name}={self.location}"

    @property
    def is_config(self) -> bool:
        """Whether the target is a `langgraph.json` rather than one graph."""
        return self.location.endswith(".json")


def parse_target(text: str) -> Target:
    """Split `[NAME=]TARGET`; nothing is looked up.

    Raises:
        GraphLoadError: the text is not of that form.
    """
    match = _NAMED.fullmatch(text.strip())
    target = Target(match[1], match[2].strip()) if match else Target(None, text.strip())
    if not target.location:
        raise GraphLoadError(f"target {text!r}: names no graph; {_FORMS}")
    if target.is_config:
        if target.name is not None:
            raise GraphLoadError(
                f"target {text!r}: {target.location} names its graphs itself; leave {target.name}= out"
            )
    else:
        with _about(f"target {text!r}"):
            _Place.parse(target.location)
    return target


_FORMS = "a target is module:attr, path/file.py:attr or langgraph.json, with NAME= before it if you like"


@dataclass(frozen=True)
class GraphSource:
    """A graph under its name, opened once per run.

    Attributes:
        name: what runs call it by.
        location: where it came from, for people to read.
        description: what its `langgraph.json` says it is for.
        problem: why it cannot be loaded; None where it has been. To open it raises a `GraphLoadError`.
    """

    name: str
    location: str
    graph_or_factory: Graph | Factory
    description: str | None = None
    problem: str | None = None

    @contextlib.asynccontextmanager
    async def open(
        self,
        config: RunnableConfig,
        checkpointer: BaseCheckpointSaver[Any] | None = None,
        *,
        keep_own: bool = False,
        access: Access | None = None,
    ) -> AsyncIterator[Graph]:
        """The graph for one run: a factory is called, and what it opened is closed at the end.

        Args:
            config: the run's config, which a factory may take.
            checkpointer: replaces the graph's own, unless the graph says `checkpointer=False`.
            keep_own: it does not replace one that the graph was compiled with.
            access: why it is opened, which a factory may ask; to be executed when left out.

        Raises:
            GraphLoadError: the graph cannot be loaded, or the factory returned something that is not a graph.
            Unavailable: a database that the factory asks cannot be reached. What else it raises comes as it is.
        """
        async with contextlib.AsyncExitStack() as stack:
            try:
                graph = await self._make(config, access or Access(), stack)
            except Exception as error:
                if not is_transient(error):
                    raise
                raise Unavailable.because_of(f"graph {self.name!r} could not be opened", error) from error
            is_kept = graph.checkpointer is False or (keep_own and isinstance(graph.checkpointer, BaseCheckpointSaver))
            if checkpointer is not None and not is_kept:
                graph = graph_with(graph, checkpointer=with_classes_of(checkpointer, graph))
            yield graph

    async def _make(self, config: RunnableConfig, access: Access, stack: contextlib.AsyncExitStack) -> Graph:
        if isinstance(self.graph_or_factory, Pregel):
            return self.graph_or_factory
        made = await _entered(self.graph_or_factory(config, access), stack)
        with _about(f"graph {self.name!r} ({self.location})"):
            graph = _as_graph(made)
            if graph is None:
                raise GraphLoadError(f"the factory must make a compiled graph or a StateGraph, not {_described(made)}")
            return graph


class LoadedGraphs(Mapping[str, GraphSource]):
    """Graphs by name, in the order of their targets, with what was ignored on the way in `warnings`.

    Those that cannot be loaded are among them; `problems` says of each why.

    Attributes:
        projects: the `langgraph.json` files among the targets.
    """

    def __init__(
        self, sources: Mapping[str, GraphSource], warnings: Sequence[str], projects: Sequence[LanggraphJson] = ()
    ) -> None:
        self._sources = dict(sources)
        self.warnings = tuple(warnings)
        self.projects = tuple(projects)

    @property
    def problems(self) -> dict[str, str]:
        """Why graphs cannot be loaded, by name."""
        return {name: source.problem for name, source in self.items() if source.problem is not None}

    def __getitem__(self, name: str) -> GraphSource:
        return self._sources[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)


def load_graphs(targets: Sequence[str], *, config_file: Path | None = None) -> LoadedGraphs:
    """Import what the targets name and check that it can be run.

    A `langgraph.json` changes this process: its `env` is set, and its local `dependencies` become importable.

    Args:
        targets: each `[NAME=]TARGET`, as described above.
        config_file: a `langgraph.json`, read before the targets.

    Raises:
        GraphLoadError: a target is not one, or none of the graphs can be loaded; the message says which, where, and
            what would be right.
    """
    parsed = [parse_target(text) for text in targets]
    if not parsed and config_file is None:
        raise GraphLoadError(f"no target was given; {_FORMS}")
    make_importable(Path.cwd())

    projects: list[LanggraphJson] = []
    loaded = [] if config_file is None else _load_config(config_file, projects)
    alone = len(parsed) == 1 and config_file is None
    for target in parsed:
        loaded += _load_config(Path(target.location), projects) if target.is_config else [_load_target(target, alone)]

    sources: dict[str, GraphSource] = {}
    for source in loaded:
        other = sources.setdefault(source.name, source)
        if other is not source:
            raise GraphLoadError(
                f"two graphs are called {source.name!r}: {other.location} and {source.location}; "
                f"give one another name, as in NAME={source.location}"
            )
    problems = [source.problem for source in sources.values() if source.problem is not None]
    if len(problems) == len(sources):
        raise GraphLoadError("; ".join(problems))
    return LoadedGraphs(sources, [warning for project in projects for warning in project.warnings], projects)


def graph_with(graph: Graph, **attributes: object) -> Graph:
    """A copy of a graph with other attributes, such as its checkpointer.

    `Pregel.copy` loses what `StateGraph.compile` sets on what it has made (langgraph 1.2): with `version="v2"`, values
    would come as dicts where they are to be of the state's class.
    """
    changed = copy(graph)
    vars(changed).update(attributes)
    return changed


def graph_source(name: str, value: object, *, location: str = "given in code") -> GraphSource:
    """A source for a graph, `StateGraph` or factory that is at hand already.

    Raises:
        GraphLoadError: `value` is none of them.
    """
    with _about(f"graph {name!r} ({location})"):
        return GraphSource(name, location, _graph_or_factory(value))


def _load_target(target: Target, alone: bool) -> GraphSource:
    try:
        with _about(f"target {str(target)!r}"):
            attribute, loaded = _load(target.location, Path.cwd())
    except NameTaken:
        raise
    except GraphLoadError as error:
        name = target.name or _Place.parse(target.location).attribute or target.location
        return _not_loaded(name, target.location, error)
    name = target.name or (_DEFAULT_NAME if alone else attribute)
    return GraphSource(name, target.location, loaded)


def _not_loaded(name: str, location: str, error: GraphLoadError, description: str | None = None) -> GraphSource:
    def raise_again() -> NoReturn:
        raise GraphLoadError(str(error)) from error

    return GraphSource(name, location, Factory(raise_again), description, problem=str(error))


def _load_config(path: Path, projects: list[LanggraphJson]) -> list[GraphSource]:
    config = read_langgraph_json(path)
    projects.append(config)
    _set_environment(config.env)
    for folder in reversed(config.import_paths):
        make_importable(folder)
    sources = []
    for entry in config.graphs:
        try:
            with _about(f"{config.path}: graphs.{entry.name} ({entry.location!r})"):
                _, loaded = _load(entry.location, config.path.parent)
        except NameTaken:
            raise
        except GraphLoadError as error:
            sources.append(_not_loaded(entry.name, entry.location, error, entry.description))
        else:
            sources.append(GraphSource(entry.name, entry.location, loaded, entry.description))
    return sources


def _set_environment(env: Mapping[str, str | None]) -> None:
    """Set a project's variables; the project wins over the shell, as in LangGraph's development server.

    What configures this process itself keeps the value that it was started with: `runstream dev` hands its Redis over
    this way.
    """
    for name, value in env.items():
        if name in os.environ and name.startswith(_OWN_VARIABLES):
            continue
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _load(location: str, folder: Path) -> tuple[str, Graph | Factory]:
    """Import the place and give the attribute's name with what it holds."""
    if _JAVASCRIPT.search(location):
        raise GraphLoadError("this is a JavaScript or TypeScript graph; a worker runs Python graphs only")
    place = _Place.parse(location)
    module = import_file(located(place.module, folder)) if place.is_file else import_module(place.module)
    attribute = place.attribute or _default_attribute(module, place.module)
    if not hasattr(module, attribute):
        raise GraphLoadError(f"{place.module} has no attribute {attribute!r}{_alternatives(module, attribute)}")
    try:
        return attribute, _graph_or_factory(getattr(module, attribute))
    except GraphLoadError as error:
        raise GraphLoadError(f"{attribute!r}: {error}{_alternatives(module, attribute)}") from error


@dataclass(frozen=True)
class _Place:
    """A location taken apart: a file or a module, and the attribute unless it was left out."""

    module: str
    attribute: str | None

    @property
    def is_file(self) -> bool:
        return "/" in self.module or os.sep in self.module or self.module.endswith(".py")

    @classmethod
    def parse(cls, location: str) -> _Place:
        module, colon, attribute = location.rpartition(":")
        if not colon or "/" in attribute or "\\" in attribute:  # a drive letter's colon is none of ours
            module, colon, attribute = location, "", ""
        place = cls(module, attribute or None)
        if colon and not attribute.isidentifier():
            raise GraphLoadError(f"{attribute!r}, after the last colon, is no attribute's name; {_FORMS}")
        if not place.is_file and not all(part.isidentifier() for part in module.split(".")):
            raise GraphLoadError(f"{module!r} is neither a module's name nor the path of a .py file; {_FORMS}")
        return place


def _default_attribute(module: ModuleType, called: str) -> str:
    for attribute in _DEFAULT_ATTRIBUTES:
        if _is_meant_as_graph(getattr(module, attribute, None)):
            return attribute
    graphs = _graphs_in(module)
    if len(graphs) == 1:
        return graphs[0]
    found = f"{len(graphs)} others ({', '.join(graphs)})" if graphs else "no other graph"
    raise GraphLoadError(f"{called} has no graph called 'graph' or 'agent', but {found}; say which: {called}:ATTR")


def _is_meant_as_graph(value: object) -> bool:
    """Whether an attribute that nobody named is the graph."""
    return isinstance(value, Pregel | StateGraph) or (is_function(value) and takes_only_what_is_given(value))


def _graphs_in(module: ModuleType) -> list[str]:
    """The names of the module's graphs, each graph once; a `StateGraph` counts where nothing is compiled."""
    for kind in (Pregel, StateGraph):
        names = {id(value): name for name, value in reversed(vars(module).items()) if isinstance(value, kind)}
        if names:
            return sorted(names.values())
    return []


def _alternatives(module: ModuleType, attribute: str) -> str:
    public = [name for name in vars(module) if not name.startswith("_") and name != attribute]
    near = difflib.get_close_matches(attribute, public, n=3)
    graphs = [name for name in _graphs_in(module) if name != attribute]
    parts = [f"did you mean {' or '.join(map(repr, near))}?"] if near else []
    parts += [f"graphs in it: {', '.join(graphs)}"] if graphs else []
    return "".join(f"; {part}" for part in parts)


def _graph_or_factory(value: object) -> Graph | Factory:
    graph = _as_graph(value)
    if graph is not None:
        return graph
    if is_function(value):
        return Factory.of(value)
    raise GraphLoadError(f"must be a compiled graph, a StateGraph or a factory of one, but is {_described(value)}")


def _as_graph(value: object) -> Graph | None:
    if isinstance(value, StateGraph):
        try:
            return value.compile()
        except Exception as error:
            raise GraphLoadError(f"the StateGraph does not compile: {error}") from error
    return value if isinstance(value, Pregel) else None


async def _entered(made: Any, stack: contextlib.AsyncExitStack) -> object:
    """What a factory's result stands for: awaited, and entered if it is a context manager or a bare generator."""
    if isawaitable(made):
        made = await made
    if isasyncgen(made):
        made = contextlib.asynccontextmanager(lambda: made)()
    elif isgenerator(made):
        made = contextlib.contextmanager(lambda: made)()
    if isinstance(made, contextlib.AbstractAsyncContextManager):
        return await stack.enter_async_context(made)
    if isinstance(made, contextlib.AbstractContextManager):
        return stack.enter_context(made)
    return made


def _described(value: object) -> str:
    if isclass(value) or ismodule(value):
        return f"the {'class' if isclass(value) else 'module'} {value.__name__}"
    return "None" if value is None else f"of type {type(value).__qualname__}"


@contextlib.contextmanager
def _about(subject: str) -> Iterator[None]:
    """Put the subject in front of what a `GraphLoadError` says, and keep the user's own exception as its cause."""
    try:
        yield
    except GraphLoadError as error:
        raise type(error)(f"{subject}: {error}") from error.__cause__
