"""Copying a thread's state."""

from __future__ import annotations

from typing import Any

from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple


async def copy_state(saver: BaseCheckpointSaver[Any], thread_id: str, new_thread_id: str) -> None:
    """Copy a thread's checkpoints; checkpointers that cannot do it by themselves are read and written."""
    try:
        await saver.acopy_thread(thread_id, new_thread_id)
    except NotImplementedError:
        tuples = [found async for found in saver.alist({"configurable": {"thread_id": thread_id}})]
        for found in reversed(tuples):
            await _put_copy(saver, found, new_thread_id)


async def _put_copy(saver: BaseCheckpointSaver[Any], found: CheckpointTuple, thread_id: str) -> None:
    configurable = found.config["configurable"]
    parent = ((found.parent_config or {}).get("configurable") or {}).get("checkpoint_id")
    namespace = configurable.get("checkpoint_ns", "")
    written = await saver.aput(
        {"configurable": {"thread_id": thread_id, "checkpoint_ns": namespace, "checkpoint_id": parent}},
        found.checkpoint,
        found.metadata,
        found.checkpoint["channel_versions"],
    )
    by_task: dict[str, list[tuple[str, Any]]] = {}
    for task_id, channel, value in found.pending_writes or ():
        by_task.setdefault(task_id, []).append((channel, value))
    for task_id, writes in by_task.items():
        await saver.aput_writes(written, writes, task_id)
