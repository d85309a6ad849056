"""What the gateway keeps of a run, in the run's own record: how it was asked for, which a producer does not say.

It stands in the run's metadata under one name, which no reader is shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from runstream import RunInfo
from runstream.model import StreamMode
from runstream_gateway.graph_config import AUTH_PREFIX

MARKS = "__gateway__"

ApiMode = Literal[
    "values", "messages", "messages-tuple", "updates", "events", "tasks", "checkpoints", "debug", "custom"
]


class Marks(BaseModel):
    """How a run was asked for.

    Attributes:
        assistant_id: the assistant's UUID.
        stream_mode: the modes, by the names of LangGraph's API.
        multitask_strategy: as it was given.
        stateless: whether the run was given no thread.
        feedback_keys: what a reader is to be given links for.
        told: the names of what the gateway itself has put into the configurable: who calls, request headers.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    assistant_id: str | None = None
    stream_mode: tuple[ApiMode, ...] = ()
    multitask_strategy: str = "enqueue"
    stateless: bool = False
    feedback_keys: tuple[str, ...] = ()
    told: tuple[str, ...] = ()

    @classmethod
    def of(cls, info: RunInfo) -> Marks:
        """The marks of a run; of one that did not come through a gateway, what can be told from its record."""
        known = info.metadata.get(MARKS)
        if isinstance(known, dict):
            return cls.model_validate(known)
        modes = ["messages-tuple" if mode == "messages" else mode for mode in info.stream_mode]
        return cls.model_validate({"stream_mode": modes})


def shown_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """A run's metadata without the marks."""
    return {key: value for key, value in metadata.items() if key != MARKS}


def shown_config(config: Mapping[str, Any] | None, marks: Marks) -> dict[str, Any] | None:
    """The config that a run was asked for with, without what the gateway has told the graph.

    That is for the graph alone: what is known of the caller may hold credentials of other services, and the record is
    read by whoever may read the run, by holders of read tokens, and by receivers of webhooks.
    """
    if config is None or not isinstance(config.get("configurable"), dict):
        return None if config is None else dict(config)
    asked = {
        name: value
        for name, value in config["configurable"].items()
        if name not in marks.told and not name.startswith(AUTH_PREFIX)
    }
    return {**config, "configurable": asked}


def pregel_modes(modes: Sequence[ApiMode]) -> list[StreamMode]:
    """The modes of a run's stream that the API's modes are made of."""
    return list(dict.fromkeys("messages" if mode == "messages-tuple" else mode for mode in modes))
