"""Assistants: a graph under a name with a configuration, and the versions of it.

Each graph has a system assistant. It is derived from the graph, and so the same in every gateway that has loaded it; it
is never stored and cannot be changed. The others are documents: one each, with all its versions.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from inspect import isawaitable
from operator import itemgetter
from typing import Any, Final, Literal, cast
from uuid import UUID, uuid5

from langchain_core.runnables import RunnableConfig
from langgraph.pregel import Pregel

from runstream import Document, Documents
from runstream_gateway.access import EVERYTHING, Allowed
from runstream_gateway.auth.calling import config_for_caller
from runstream_gateway.containment import Containment
from runstream_gateway.errors import ApiError, not_found, not_loaded
from runstream_gateway.graph_config import GraphConfig, of_caller
from runstream_gateway.ids import check_uuid, new_id, now
from runstream_gateway.lane import Lane
from runstream_gateway.metadata import check_metadata
from runstream_worker.context import context_fields
from runstream_worker.factories import Access
from runstream_worker.graphs import Graph, GraphSource

_logger = logging.getLogger("runstream.gateway")

ASSISTANT_TTL: Final = 10 * 365 * 24 * 3600.0
"""How long an assistant is kept after it was last changed, in seconds: until somebody deletes it, as good as."""

NOT_LOADED: Final = "this graph cannot be loaded; the gateway's log says why"
MAX_VERSIONS: Final = 100
MAX_VERSION_BYTES: Final = 256 * 1024
MAX_BYTES: Final = 1024 * 1024
"""What an assistant may have with all its versions: each change, and each search, reads all of it."""

_PART_BYTES: Final = 512 * 1024
_PAGE: Final = 20

# As LangGraph's server has it: clients compute the ids of system assistants by themselves.
_NAMESPACE: Final = UUID("6ba7b821-9dad-11d1-80b4-00c04fd430c8")
# Nobody created a system assistant, and two gateways have to tell the same time.
_SYSTEM_TIME: Final = "1970-01-01T00:00:00+00:00"
_UNNAMED_GRAPH: Final = "LangGraph"
_LOOKING: Final = Access("assistants.read")
_UNCONFIGURED: Final[Mapping[str, Any]] = {"config": {}, "context": {}}

SortKey = Literal["assistant_id", "graph_id", "name", "created_at", "updated_at"]


@dataclass(frozen=True)
class Settled:
    """What a version of an assistant settles; the rest is the same in all of them."""

    graph_id: str
    config: dict[str, Any] = field(default_factory=dict)
    context: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    name: str = "Untitled"
    description: str | None = None


@dataclass(frozen=True)
class Assistant(Settled):
    """An assistant at one of its versions.

    Attributes:
        is_system: it was derived from its graph.
    """

    assistant_id: str = ""
    version: int = 1
    created_at: str = _SYSTEM_TIME
    updated_at: str = _SYSTEM_TIME
    is_system: bool = False

    def to_json(self) -> dict[str, Any]:
        """The assistant as the API shows it."""
        shown = dict(vars(self))
        del shown["is_system"]
        return shown


@dataclass(frozen=True)
class AssistantQuery:
    """Which assistants are looked for; what is left empty does not matter.

    Attributes:
        metadata: what theirs contains.
        graph_id: the name of their graph.
        name: a part of theirs, in whatever case.
    """

    metadata: Mapping[str, Any] = field(default_factory=dict)
    graph_id: str | None = None
    name: str | None = None

    def admits(self, assistant: Assistant) -> bool:
        """Whether graph and name are one of them's."""
        return (self.graph_id is None or assistant.graph_id == self.graph_id) and (
            not self.name or self.name.casefold() in assistant.name.casefold()
        )


def system_assistant(source: GraphSource, *, show_errors: bool = False) -> Assistant:
    """Return the assistant that a graph has by itself; the metadata of one that cannot be loaded says so.

    What kept it from being loaded may name files and hold what is nobody's business: `show_errors` shows it.
    """
    graph = source.graph_or_factory
    problem = {} if source.problem is None else {"error": source.problem if show_errors else NOT_LOADED}
    own_name = graph.name if isinstance(graph, Pregel) else None
    return Assistant(
        graph_id=source.name,
        metadata={"created_by": "system", **problem},
        name=source.name if own_name in (None, _UNNAMED_GRAPH) else own_name,
        description=source.description,
        assistant_id=str(uuid5(_NAMESPACE, source.name)),
        is_system=True,
    )


class Assistants:
    """The assistants of the API.

    Who may see one is told by an `Allowed`; what is not the caller's to see is answered as if it were not there.

    Args:
        documents: of the kind `assistant`.
        graphs: by name; assistants of other graphs are not shown.
        lane: compares what takes long.
        show_errors: show what keeps graphs from being loaded.
    """

    def __init__(
        self,
        documents: Documents,
        graphs: Mapping[str, GraphSource],
        lane: Lane | None = None,
        *,
        show_errors: bool = False,
    ) -> None:
        self._documents = documents
        self._lane = Lane() if lane is None else lane
        self._graphs = graphs
        self._fields: dict[str, Collection[str] | None] = {}
        self._asking: dict[str, asyncio.Lock] = {}
        self._system = {name: system_assistant(source, show_errors=show_errors) for name, source in graphs.items()}
        self._system_by_id = {assistant.assistant_id: assistant for assistant in self._system.values()}

    async def resolve(self, name_or_id: str, allowed: Allowed = EVERYTHING) -> Assistant:
        """The assistant that a run is to be of: a graph's name, or an id. System assistants are everybody's.

        Raises:
            ApiError: 422, this is neither a graph's name nor a UUID; 404, there is none of this id, it is not the
                caller's, or its graph is not here.
        """
        known = self._system_one(name_or_id)
        if known is not None:
            return known
        assistant_id = self._check_id(name_or_id)
        document = await self._documents.get(assistant_id)
        if document is None or not self._is_shown(document, allowed):
            raise not_found("assistant", assistant_id)
        return _latest(document)

    async def get(self, name_or_id: str, allowed: Allowed) -> Assistant:
        """As `resolve`, but system assistants, too, are only for those who may see them."""
        known = await self.resolve(name_or_id, allowed)
        if not allowed.matches(known.metadata):
            raise not_found("assistant", name_or_id)
        return known

    @asynccontextmanager
    async def open(self, assistant: Assistant) -> AsyncIterator[Graph]:
        """The graph of an assistant, made with the assistant's config if a factory makes it."""
        source = self._graphs[assistant.graph_id]
        if source.problem is not None:
            raise not_loaded(source.name)
        async with source.open(config_for_caller(_config_of(assistant)), access=_LOOKING) as graph:
            yield graph

    async def context_fields(self, assistant: Assistant) -> Collection[str] | None:
        """The names of what the context of an assistant's graph has; None where that may be anything.

        They are the graph's, whatever the config, so a factory is called for them once; where it fails, again.
        """
        name = assistant.graph_id
        async with self._asking.setdefault(name, asyncio.Lock()):
            if name not in self._fields:
                try:
                    config = config_for_caller(_config_of(assistant))
                    async with _beside(self._graphs[name]).open(config, access=_LOOKING) as graph:
                        self._fields[name] = context_fields(graph)
                except Exception as error:  # noqa: BLE001 - a factory is users' code, and its runs say what is wrong
                    _logger.debug("graph %r could not be made: %s", name, error)
                    return None
            return self._fields[name]

    async def create(
        self,
        settled: Settled,
        allowed: Allowed,
        *,
        assistant_id: str | None = None,
        if_exists: Literal["raise", "do_nothing"] = "raise",
    ) -> Assistant:
        """Write a new assistant.

        Raises:
            ApiError: 404, there is no such graph; 409, there is an assistant of this id, and that was not to be;
                400, 413: this cannot be stored.
            InvalidRequest: the same.
        """
        self._check_graph(settled.graph_id)
        assistant_id = new_id() if assistant_id is None else check_uuid(assistant_id, "assistant_id")
        known = self._system_by_id.get(assistant_id)
        if known is None:
            created = await self._documents.create(assistant_id, _first(settled))
            if created is not None:
                return _latest(created)
            known = await self._known(assistant_id)
        # Whose it is matters first: an id tells nobody what somebody else's assistant is.
        if known is None or if_exists == "raise" or not allowed.matches(known.metadata):
            raise ApiError(409, f"assistant {assistant_id!r} exists already")
        return known

    async def change(self, name_or_id: str, allowed: Allowed, changes: Mapping[str, Any]) -> Assistant:
        """Make a new version of an assistant, from its present one.

        Args:
            name_or_id: which.
            allowed: what the caller may see.
            changes: fields of `Settled`. `metadata` is merged, the others are replaced; a `config` that says nothing of
                `configurable` leaves the context.

        Raises:
            ApiError: 404, there is no such assistant or graph; 409, it is a system assistant;
                400, 413: this cannot be stored.
            InvalidRequest: the same.
        """
        assistant_id = await self.own(name_or_id, allowed)
        if "graph_id" in changes:
            self._check_graph(changes["graph_id"])

        def changed(data: dict[str, Any]) -> dict[str, Any]:
            present = _version(data, data["version"])
            _check_seen(present, assistant_id, allowed)
            metadata = {**present["metadata"], **changes.get("metadata", {})}
            check_metadata(metadata)
            return _with_version(data, {**present, **changes, **_configured(changes, present), "metadata": metadata})

        return await self._update(assistant_id, changed)

    async def set_latest(self, name_or_id: str, allowed: Allowed, version: int) -> Assistant:
        """Make a version of an assistant the present one again.

        Raises:
            ApiError: 404, there is no such assistant or version.
        """
        known = await self.get(name_or_id, allowed)
        if known.is_system:
            if version != known.version:
                raise not_found("version", str(version))
            return known

        def changed(data: dict[str, Any]) -> dict[str, Any]:
            _check_seen(_version(data, data["version"]), known.assistant_id, allowed)
            if version not in [each["version"] for each in data["versions"]]:
                raise not_found("version", str(version))
            return {**data, "version": version, "updated_at": now()}

        return await self._update(known.assistant_id, changed)

    async def versions(self, name_or_id: str, allowed: Allowed, metadata: Mapping[str, Any]) -> list[Assistant]:
        """The versions of an assistant whose metadata contains this, the newest first.

        Raises:
            ApiError: 404, there is no such assistant.
        """
        known = await self.get(name_or_id, allowed)
        if known.is_system:
            found = [known]
        else:
            document = await self._documents.get(known.assistant_id)
            if document is None:
                raise not_found("assistant", known.assistant_id)
            found = [_at(document, each["version"]) for each in reversed(document.data["versions"])]
        seen = [each for each in found if allowed.matches(each.metadata)]
        return await self._compared(seen, Containment(metadata, "metadata"))

    async def delete(self, name_or_id: str, allowed: Allowed) -> None:
        """Remove an assistant with all its versions; runs and threads stay.

        Raises:
            ApiError: 404, there is no such assistant; 409, it is a system assistant.
        """
        assistant_id = await self.own(name_or_id, allowed)
        if not await self._documents.delete(assistant_id):
            raise not_found("assistant", assistant_id)

    async def search(
        self, query: AssistantQuery, allowed: Allowed, *, sort_by: SortKey = "created_at", descending: bool = True
    ) -> list[str]:
        """Return the ids of the assistants that are looked for.

        Raises:
            ApiError: 404, there is no such graph; 422, that takes too many comparisons.
        """
        if query.graph_id is not None:
            self._check_graph(query.graph_id)
        metadata = Containment(query.metadata, "metadata")
        found: list[tuple[str, str]] = []
        system = [each for each in self._system.values() if allowed.matches(each.metadata)]
        async for part in self._documents.parts(part_bytes=_PART_BYTES):
            shown = [_latest(each) for each in part if self._is_shown(each, allowed)]
            found += [_sortable(each, sort_by) for each in await self._fitting(shown, query, metadata)]
        found += [_sortable(each, sort_by) for each in await self._fitting(system, query, metadata)]
        # By id where the key is the same: every gateway has to cut the pages alike.
        found.sort(key=itemgetter(1))
        found.sort(key=itemgetter(0), reverse=descending)
        return [assistant_id for _, assistant_id in found]

    async def page(self, assistant_ids: Sequence[str]) -> AsyncIterator[Assistant]:
        """Iterate over assistants; those that have gone are left out."""
        for at in range(0, len(assistant_ids), _PAGE):
            ids = assistant_ids[at : at + _PAGE]
            stored = self._documents.parts_of(
                [one for one in ids if one not in self._system_by_id], part_bytes=_PART_BYTES
            )
            known = {document.id: document async for part in stored for document in part if document is not None}
            for one in ids:
                if one in self._system_by_id:
                    yield self._system_by_id[one]
                elif one in known:
                    yield _latest(known[one])

    async def _fitting(
        self, assistants: Sequence[Assistant], query: AssistantQuery, metadata: Containment
    ) -> Sequence[Assistant]:
        admitted = [each for each in assistants if query.admits(each)]
        if not metadata or not admitted:
            return admitted
        return await self._compared(admitted, metadata)

    async def _compared(self, assistants: Sequence[Assistant], metadata: Containment) -> list[Assistant]:
        def compared() -> list[Assistant]:
            return [each for each in assistants if metadata.is_in(each.metadata)]

        return compared() if metadata.is_linear else await self._lane.run(compared)

    def _system_one(self, name_or_id: str) -> Assistant | None:
        by_name = self._system.get(name_or_id)
        if by_name is not None:
            return by_name
        try:
            return self._system_by_id.get(str(UUID(name_or_id)))
        except ValueError:
            return None

    def _check_id(self, name_or_id: str) -> str:
        try:
            return str(UUID(name_or_id))
        except ValueError:
            graphs = ", ".join(self._graphs)
            raise ApiError(422, f"assistant {name_or_id!r} is neither a UUID nor one of the graphs: {graphs}") from None

    def _check_graph(self, name: str) -> None:
        if name not in self._graphs:
            raise ApiError(404, f"graph {name!r} is not loaded by this gateway; it has {', '.join(self._graphs)}")

    def _is_shown(self, document: Document, allowed: Allowed) -> bool:
        present = _version(document.data, document.data["version"])
        return present["graph_id"] in self._graphs and allowed.matches(present["metadata"])

    async def _known(self, assistant_id: str) -> Assistant | None:
        document = await self._documents.get(assistant_id)
        return None if document is None else _latest(document)

    async def own(self, name_or_id: str, allowed: Allowed) -> str:
        """Return the id of an assistant that may be changed, be its graph here or not.

        Raises:
            ApiError: 404, there is none that the caller may see; 409, it is a system assistant; 422, it is no id.
        """
        system = self._system_one(name_or_id)
        if system is not None:
            _check_seen(vars(system), name_or_id, allowed)
            raise ApiError(409, f"{system.name!r} is the graph's own assistant and stays as it is; create another one")
        assistant_id = self._check_id(name_or_id)
        known = await self._known(assistant_id)
        if known is None or not allowed.matches(known.metadata):
            raise not_found("assistant", assistant_id)
        return assistant_id

    async def _update(self, assistant_id: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Assistant:
        written = await self._documents.update(assistant_id, change)
        if written is None:
            raise not_found("assistant", assistant_id)
        return _latest(written)


def _sortable(assistant: Assistant, sort_by: SortKey) -> tuple[str, str]:
    return str(getattr(assistant, sort_by)).casefold(), assistant.assistant_id


def _config_of(assistant: Assistant) -> RunnableConfig:
    """The config that a factory makes the graph of an assistant with, outside of a run."""
    places = {"graph_id": assistant.graph_id, "assistant_id": assistant.assistant_id}
    config = GraphConfig(assistant=assistant.config, assistant_context=assistant.context, places=places)
    return cast("RunnableConfig", config.to_dict())


def _beside(source: GraphSource) -> GraphSource:
    """The same graph, whose factory is called in a thread: one that takes its time must not hold up all requests."""
    factory = source.graph_or_factory
    if isinstance(factory, Pregel):
        return source
    function = factory.function

    async def made(*given: Any, **named: Any) -> object:
        try:
            found = await asyncio.to_thread(function, *given, **named)
        except RuntimeError:
            # Some ask for the running loop, such as those that open an asynchronous checkpointer.
            found = function(*given, **named)
        return await found if isawaitable(found) else found

    return replace(source, graph_or_factory=replace(factory, function=made))


def _check_seen(version: Mapping[str, Any], assistant_id: str, allowed: Allowed) -> None:
    if not allowed.matches(version["metadata"]):
        raise not_found("assistant", assistant_id)


def _configured(changes: Mapping[str, Any], present: Mapping[str, Any]) -> dict[str, Any]:
    """A config and a context that say the same: graphs read `config.configurable` or `context`."""
    config, context = changes.get("config"), changes.get("context")
    configurable = (config or {}).get("configurable")
    if configurable and context:
        raise ApiError(400, "give config.configurable or context, not both")
    if context is None:
        context = present["context"] if configurable is None else of_caller(configurable)
    base = present["config"] if config is None else config
    config = {key: value for key, value in base.items() if key != "configurable"}
    return {"config": {**config, "configurable": context} if context else config, "context": context}


# -- documents: {"version": the present one, "created_at", "updated_at", "versions": [{"version", ...}, ...]} ----------


def _first(settled: Settled) -> dict[str, Any]:
    at = now()
    configured = _configured({"config": settled.config, "context": settled.context or None}, _UNCONFIGURED)
    version = {**vars(settled), **configured, "version": 1, "created_at": at}
    return {"version": 1, "created_at": at, "updated_at": at, "versions": [_storable(version)]}


def _with_version(data: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    at, number = now(), data["versions"][-1]["version"] + 1
    versions = [*data["versions"], _storable({**fields, "version": number, "created_at": at})]
    return {**data, "version": number, "updated_at": at, "versions": _newest(versions)}


def _newest(versions: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The versions that are kept: the last hundred, and no more of them than may be stored."""
    kept: list[dict[str, Any]] = []
    left = MAX_BYTES
    for version in reversed(versions[-MAX_VERSIONS:]):
        left -= len(json.dumps(version))
        if left < 0:
            break
        kept.insert(0, version)
    return kept


def _storable(version: dict[str, Any]) -> dict[str, Any]:
    try:
        size = len(json.dumps(version))
    except RecursionError:
        raise ApiError(422, "this is nested too deep") from None
    if size > MAX_VERSION_BYTES:
        raise ApiError(413, f"an assistant may have {MAX_VERSION_BYTES:,} bytes, and this has {size:,}")
    return version


def _version(data: Mapping[str, Any], number: int) -> dict[str, Any]:
    found: dict[str, Any] = next(each for each in data["versions"] if each["version"] == number)
    return found


def _latest(document: Document) -> Assistant:
    present = _at(document, document.data["version"])
    return replace(present, created_at=document.data["created_at"], updated_at=document.data["updated_at"])


def _at(document: Document, number: int) -> Assistant:
    version = _version(document.data, number)
    return Assistant(**version, assistant_id=document.id, updated_at=version["created_at"])
