"""Bodies and answers of `/assistants`, for its checks and its OpenAPI page."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Query
from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from runstream_gateway.assistants import AssistantQuery, SortKey
from runstream_gateway.bodies import Body, SortOrder
from runstream_gateway.metadata import Metadata

Fields = Literal[
    "assistant_id", "graph_id", "name", "description", "config", "context", "created_at", "updated_at", "metadata",
    "version",
]  # fmt: skip
Xray = Annotated[
    str,
    Query(
        pattern=r"^([Tt]rue|[Ff]alse|[1-9][0-9]{0,3})$",
        description="Draw subgraphs too: `true`, or how many levels of them.",
    ),
]


class _Given(Body):
    def given(self) -> dict[str, Any]:
        """What was given and is not null."""
        dumped = self.model_dump(exclude_unset=True)
        return {name: value for name, value in dumped.items() if value is not None}


class ConfigJson(_Given):
    """How a graph is to run."""

    model_config = ConfigDict(extra="allow")

    tags: list[str] | None = None
    recursion_limit: int | None = Field(default=None, strict=True, ge=1)
    configurable: dict[str, Any] | None = Field(
        default=None, description="What the graph's nodes read from their config."
    )


class _AssistantFields(_Given):
    config: ConfigJson | None = None
    context: dict[str, Any] | None = Field(
        default=None, description="What the graph's nodes get as their runtime's context."
    )
    metadata: Metadata | None = None
    name: str | None = None
    description: str | None = None

    def given(self) -> dict[str, Any]:
        """What was given, the config included."""
        found = super().given()
        return found if self.config is None else {**found, "config": self.config.given()}


class CreateAssistant(_AssistantFields):
    """A new assistant."""

    graph_id: str = Field(description="The name of its graph.")
    assistant_id: str | None = Field(default=None, description="Its id, a UUID; made when left out.")
    if_exists: Literal["raise", "do_nothing"] | None = Field(
        default=None, description="`raise` is 409, and the default."
    )


class ChangeAssistant(_AssistantFields):
    """What is to be different in the next version; metadata is merged key by key."""

    graph_id: str | None = None


class _Filter(Body):
    metadata: dict[str, Any] | None = Field(default=None, description="What the metadata contains.")


class CountAssistants(_Filter):
    """Which assistants are meant."""

    graph_id: str | None = Field(default=None, description="The name of their graph.")
    name: str | None = Field(default=None, description="A part of their name, in whatever case.")

    def query(self, metadata: dict[str, Any]) -> AssistantQuery:
        """The same as the assistants take it, with what the guard has made of the metadata."""
        return AssistantQuery(metadata=metadata, graph_id=self.graph_id, name=self.name)


class SearchAssistants(CountAssistants):
    """Which assistants are meant, and which page of them."""

    limit: int | None = Field(default=10, strict=True, ge=1, le=1000)
    offset: int | None = Field(default=0, strict=True, ge=0)
    sort_by: SortKey | None = "created_at"
    sort_order: SortOrder | None = "desc"
    select: list[Fields] | None = Field(default=None, max_length=100, description="Only these fields.")


class SearchVersions(_Filter):
    """Which versions are meant, and which page of them."""

    limit: int | None = Field(default=10, strict=True, ge=1, le=1000)
    offset: int | None = Field(default=0, strict=True, ge=0)


class SetLatest(Body):
    """The version that is to be the present one."""

    version: int = Field(strict=True, ge=1)


# -- answers -----------------------------------------------------------------------------------------------------------


class AssistantShape(TypedDict):
    """A graph with a configuration, at one of its versions."""

    assistant_id: str
    graph_id: str
    config: dict[str, Any]
    context: dict[str, Any]
    metadata: dict[str, Any]
    name: str
    description: str | None
    version: int
    created_at: str
    updated_at: str


class AssistantPart(TypedDict, total=False):
    """An assistant, or the fields of it that were selected."""

    assistant_id: str
    graph_id: str
    config: dict[str, Any]
    context: dict[str, Any]
    metadata: dict[str, Any]
    name: str
    description: str | None
    version: int
    created_at: str
    updated_at: str


class SubgraphSchemas(TypedDict):
    """JSON schemas, null where there is none."""

    input_schema: dict[str, Any] | None
    output_schema: dict[str, Any] | None
    state_schema: dict[str, Any] | None
    config_schema: dict[str, Any] | None
    context_schema: dict[str, Any] | None


class GraphSchemas(SubgraphSchemas):
    """The JSON schemas of a graph."""

    graph_id: str


class DrawnGraph(TypedDict):
    """A graph's nodes (`id`, `type`, `data`) and edges (`source`, `target`, and `conditional` where it is so)."""

    nodes: list[dict[str, Any]]
    edges: list[dict[str, Any]]
