"""Trying updates of a state before any of them is written."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
)


class Rehearsal(BaseCheckpointSaver[Any]):
    """A checkpointer that reads what another one has, and keeps what is written to itself.

    A graph that has taken some updates with it will take them with the other one. What cannot be serialized fails here
    as it would there.

    Args:
        saver: the other one.
    """

    def __init__(self, saver: BaseCheckpointSaver[Any]) -> None:
        super().__init__(serde=saver.serde)
        self._saver = saver
        self._checkpoints: dict[tuple[str, str], CheckpointTuple] = {}
        self._writes: dict[tuple[str, str], list[tuple[str, str, Any]]] = {}

    def get_next_version(self, current: Any, channel: None) -> Any:
        """As the other one counts."""
        return self._saver.get_next_version(current, channel)

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """A checkpoint: one that was written here, or one of the other's."""
        found = self._checkpoints.get(_place(config)) or await self._saver.aget_tuple(config)
        if found is None or not (writes := self._writes.get(_place(found.config))):
            return found
        return found._replace(pending_writes=[*(found.pending_writes or ()), *writes])

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - the base class names it so
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """The other's checkpoints."""
        async for found in self._saver.alist(config, filter=filter, before=before, limit=limit):
            yield found

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,  # noqa: ARG002 - whole checkpoints are kept
    ) -> RunnableConfig:
        """Keep a checkpoint."""
        kept = self.serde.loads_typed(self.serde.dumps_typed(checkpoint))
        namespace, parent = _place(config)
        thread = {"thread_id": config["configurable"]["thread_id"], "checkpoint_ns": namespace}
        written: RunnableConfig = {"configurable": {**thread, "checkpoint_id": checkpoint["id"]}}
        before: RunnableConfig | None = {"configurable": {**thread, "checkpoint_id": parent}} if parent else None
        self._checkpoints[_place(written)] = CheckpointTuple(written, kept, metadata, before, [])
        return written

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",  # noqa: ARG002 - the base class has it
    ) -> None:
        """Keep what belongs to a checkpoint, be that here or there."""
        kept = self._writes.setdefault(_place(config), [])
        kept += [(task_id, channel, value) for channel, value in writes]


def _place(config: RunnableConfig) -> tuple[str, str]:
    configurable = config["configurable"]
    return configurable.get("checkpoint_ns") or "", configurable.get("checkpoint_id") or ""
