"""Assistants: /assistants."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query
from starlette.responses import Response

from runstream_gateway.assistant_bodies import (
    AssistantPart,
    AssistantShape,
    ChangeAssistant,
    CountAssistants,
    CreateAssistant,
    DrawnGraph,
    GraphSchemas,
    SearchAssistants,
    SearchVersions,
    SetLatest,
    SubgraphSchemas,
    Xray,
)
from runstream_gateway.assistants import Assistant, Settled
from runstream_gateway.auth.caller import Filter
from runstream_gateway.bounded_list import BoundedList
from runstream_gateway.errors import ApiError
from runstream_gateway.graph_views import drawing, schemas, subgraphs
from runstream_gateway.ids import check_uuid, new_id
from runstream_gateway.routes.common import Access, Accessing, Json, paged, selected
from runstream_gateway.routes.strict import StrictRoute
from runstream_gateway.shapes import REFUSALS
from runstream_worker.graphs import Graph
from runstream_worker.infrastructure import Unavailable

_logger = logging.getLogger("runstream.gateway")
router = APIRouter(prefix="/assistants", tags=["assistants"], responses=REFUSALS, route_class=StrictRoute)


@router.post("/search", response_model=list[AssistantPart], summary="Search assistants")
async def search(access: Accessing, body: Annotated[SearchAssistants | None, Body()] = None) -> Response:
    """The assistants that fit, the newest first; `X-Pagination-Total` tells how many there are."""
    body = body or SearchAssistants()
    limit, offset = body.limit or 10, body.offset or 0
    value = {**_searched(body), "limit": limit, "offset": offset}
    allowed = await access.to("assistants", "search", value)
    async with access.turn():
        found = await access.gateway.assistants.search(
            body.query(value.get("metadata") or {}),
            allowed,
            sort_by=body.sort_by or "created_at",
            descending=body.sort_order != "asc",
        )
        page, headers = paged(found, limit, offset)
        answer = BoundedList("assistants", "ask for less at a time (limit, offset), or for fewer fields (select)")
        async for each in access.gateway.assistants.page(page):
            answer.add(selected(each.to_json(), body.select))
    return Json(answer.content, headers=headers)


@router.post("/count", response_model=int, summary="Count assistants")
async def count(access: Accessing, body: Annotated[CountAssistants | None, Body()] = None) -> Response:
    """How many assistants fit."""
    body = body or CountAssistants()
    value = {**_searched(body), "limit": 0, "offset": 0}
    allowed = await access.to("assistants", "search", value)
    async with access.turn():
        return Json(len(await access.gateway.assistants.search(body.query(value.get("metadata") or {}), allowed)))


@router.post("", response_model=AssistantShape, summary="Create an assistant")
async def create(access: Accessing, body: CreateAssistant) -> Response:
    """A new assistant of a graph. Where there is one of this id, that is refused, or it is the answer (`if_exists`)."""
    given = body.given()
    assistant_id, if_exists = given.pop("assistant_id", None), given.pop("if_exists", "raise")
    value = {"metadata": {}, **given, "assistant_id": assistant_id, "if_exists": if_exists}
    allowed = await access.to("assistants", "create", value)
    settled = Settled(**{**given, "metadata": value.get("metadata") or {}})
    new = new_id() if assistant_id is None else check_uuid(assistant_id, "assistant_id")
    async with access.storing("assistant", new, given, value["metadata"]):
        created = await access.gateway.assistants.create(settled, allowed, assistant_id=new, if_exists=if_exists)
    return Json(created.to_json())


@router.get("/{assistant_id}", response_model=AssistantShape, summary="Get an assistant")
async def get(assistant_id: str, access: Accessing) -> Response:
    """An assistant by its id, or a graph's own by the graph's name."""
    return Json((await _read(access, assistant_id)).to_json())


@router.patch("/{assistant_id}", response_model=AssistantShape, summary="Change an assistant")
async def patch(assistant_id: str, body: ChangeAssistant, access: Accessing) -> Response:
    """Make a new version of an assistant, which becomes the present one; metadata is merged key by key."""
    changes = body.given()
    value = {"metadata": {}, **changes, "assistant_id": assistant_id}
    allowed = await access.to("assistants", "update", value)
    changes["metadata"] = value.get("metadata") or {}
    own_id = await access.gateway.assistants.own(assistant_id, allowed)
    async with access.storing("assistant", own_id, changes):
        changed = await access.gateway.assistants.change(assistant_id, allowed, changes)
    return Json(changed.to_json())


@router.delete("/{assistant_id}", status_code=204, summary="Delete an assistant")
async def delete(
    assistant_id: str,
    access: Accessing,
    delete_threads: Annotated[bool, Query(description="Has no effect: threads stay.")] = False,  # noqa: ARG001
) -> Response:
    """Remove an assistant with all its versions. A graph's own assistant cannot be removed."""
    allowed = await access.to("assistants", "delete", {"assistant_id": assistant_id})
    await access.gateway.assistants.delete(assistant_id, allowed)
    await access.gateway.storage.removed(access.caller, "assistant", check_uuid(assistant_id, "assistant_id"))
    return Response(status_code=204)


@router.post("/{assistant_id}/versions", response_model=list[AssistantShape], summary="List an assistant's versions")
async def versions(
    assistant_id: str, access: Accessing, body: Annotated[SearchVersions | None, Body()] = None
) -> Response:
    """The versions of an assistant, the newest first; the last 100 are kept."""
    body = body or SearchVersions()
    allowed = await _may_read(access, assistant_id)
    async with access.turn():
        found = await access.gateway.assistants.versions(assistant_id, allowed, body.metadata or {})
    page, headers = paged(found, body.limit or 10, body.offset or 0)
    return Json([each.to_json() for each in page], headers=headers)


@router.post("/{assistant_id}/latest", response_model=AssistantShape, summary="Go back to a version")
async def set_latest(assistant_id: str, body: SetLatest, access: Accessing) -> Response:
    """Make a version of an assistant the present one again."""
    value = {"assistant_id": assistant_id, "version": body.version}
    allowed = await access.to("assistants", "update", value)
    return Json((await access.gateway.assistants.set_latest(assistant_id, allowed, body.version)).to_json())


@router.get("/{assistant_id}/schemas", response_model=GraphSchemas, summary="Get the schemas of an assistant's graph")
async def get_schemas(assistant_id: str, access: Accessing) -> Response:
    """JSON schemas of input, output, state, config and context."""
    assistant = await _read(access, assistant_id)
    async with access.turn(), _opened(access, assistant) as graph:
        return Json({"graph_id": assistant.graph_id, **await schemas(graph)})


@router.get("/{assistant_id}/graph", response_model=DrawnGraph, summary="Get an assistant's graph")
async def get_graph(assistant_id: str, access: Accessing, xray: Xray = "false") -> Response:
    """The nodes and edges."""
    assistant = await _read(access, assistant_id)
    async with access.turn(), _opened(access, assistant) as graph:
        return Json(await drawing(graph, int(xray) if xray.isdigit() else xray.lower() == "true"))


@router.get(
    "/{assistant_id}/subgraphs", response_model=dict[str, SubgraphSchemas], summary="Get an assistant's subgraphs"
)
async def get_subgraphs(assistant_id: str, access: Accessing, recurse: bool = False) -> Response:
    """The schemas of the subgraphs by their namespaces."""
    assistant = await _read(access, assistant_id)
    async with access.turn(), _opened(access, assistant) as graph:
        return Json(await subgraphs(graph, None, recurse=recurse))


@router.get(
    "/{assistant_id}/subgraphs/{namespace:path}",
    response_model=dict[str, SubgraphSchemas],
    summary="Get one of an assistant's subgraphs",
)
async def get_subgraph(assistant_id: str, namespace: str, access: Accessing, recurse: bool = False) -> Response:
    """The schemas of the subgraph with this namespace, such as `parent|child`; an empty object where there is none."""
    assistant = await _read(access, assistant_id)
    async with access.turn(), _opened(access, assistant) as graph:
        return Json(await subgraphs(graph, namespace, recurse=recurse))


async def _may_read(access: Access, assistant_id: str) -> Filter:
    return await access.to("assistants", "read", {"assistant_id": assistant_id})


async def _read(access: Access, assistant_id: str) -> Assistant:
    return await access.gateway.assistants.get(assistant_id, await _may_read(access, assistant_id))


@asynccontextmanager
async def _opened(access: Access, assistant: Assistant) -> AsyncIterator[Graph]:
    """The assistant's graph. What users' code says when it cannot make it goes to the log: it may hold secrets."""
    made = False
    try:
        async with access.gateway.assistants.open(assistant) as graph:
            made = True
            yield graph
    except ApiError:
        raise
    except Exception as error:
        if made:
            raise
        _logger.exception("graph %r could not be made", assistant.graph_id)
        kind = error.kind if isinstance(error, Unavailable) else type(error).__name__
        raise ApiError(500, f"graph {assistant.graph_id!r} could not be made ({kind})") from error


def _searched(body: CountAssistants) -> dict[str, Any]:
    return {"graph_id": body.graph_id, "metadata": dict(body.metadata or {})}
