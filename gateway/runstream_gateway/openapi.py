"""One OpenAPI page for the gateway and the routes of a project's own."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Route

_logger = logging.getLogger("runstream.gateway")


def describe_together(api: FastAPI, own: Starlette) -> None:
    """Have a gateway's OpenAPI page show a project's routes, too.

    A schema that both have under one name is the project's: its routes are asked first.
    """
    gateway_alone = api.openapi

    def together() -> dict[str, Any]:
        if api.openapi_schema is None:
            api.openapi_schema = _merged(gateway_alone(), _described(own))
        return api.openapi_schema

    api.openapi = together  # type: ignore[method-assign]  # as FastAPI documents it


def _described(own: Starlette) -> Mapping[str, Any]:
    if not isinstance(own, FastAPI):
        return {"paths": _paths_of(own)}
    try:
        return own.openapi()
    except Exception as error:  # noqa: BLE001 - a project's models have a say in it, and the gateway's page is good
        _logger.warning("the routes of http.app are not on the OpenAPI page: %s: %s", type(error).__name__, error)
        return {}


def _paths_of(own: Starlette) -> dict[str, Any]:
    """The paths and methods of Starlette's routes, with the first line of their docstrings."""
    paths: dict[str, dict[str, Any]] = {}
    for route in own.routes:
        if not isinstance(route, Route) or not route.include_in_schema:
            continue
        summary = (inspect.getdoc(route.endpoint) or route.name).partition("\n")[0]
        operation = {"summary": summary, "responses": {"200": {"description": "Successful Response"}}}
        path = paths.setdefault(route.path_format, {})
        path |= {method.lower(): operation for method in sorted((route.methods or set()) - {"HEAD"})}
    return paths


def _merged(gateway: dict[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    paths = {path: dict(operations) for path, operations in gateway.get("paths", {}).items()}
    for path, operations in own.get("paths", {}).items():
        paths[path] = {**paths.get(path, {}), **operations}
    components = {kind: dict(named) for kind, named in gateway.get("components", {}).items()}
    for kind, named in own.get("components", {}).items():
        components[kind] = {**components.get(kind, {}), **named}
    return {**gateway, "paths": paths, "components": components}
