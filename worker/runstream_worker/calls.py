"""Which call of a model a chunk belongs to.

LangGraph does not pass it on, and a message's id does not identify it: some providers send their own id with one chunk
only, and LangChain gives the others one that it has made.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import BaseMessage
from langchain_core.messages.base import BaseMessageChunk
from langchain_core.outputs import ChatGenerationChunk, GenerationChunk

_MOST_CALLS: Final = 4096


class ModelCalls(BaseCallbackHandler):
    """Knows the calls of one attempt, by the metadata that LangChain passes with each: one object for one call.

    Where several calls share their metadata (`agenerate` with several prompts), it looks at each token instead, which
    costs about a twentieth of what a token takes; so it does that only then.
    """

    run_inline = True
    ignore_chain = ignore_agent = ignore_retriever = ignore_retry = ignore_custom_event = True

    def __init__(self) -> None:
        # The objects are kept, so that no other gets their address.
        self._by_metadata: OrderedDict[int, tuple[object, str]] = OrderedDict()
        self._by_message: OrderedDict[int, tuple[object, str]] = OrderedDict()
        self._has_shared = False

    @property
    def ignore_llm(self) -> bool:
        """Whether tokens need no look."""
        return not self._has_shared

    def on_chat_model_start(
        self,
        serialized: dict[str, Any],  # noqa: ARG002 - as langchain calls it
        messages: list[list[BaseMessage]],  # noqa: ARG002 - as langchain calls it
        *,
        run_id: UUID,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,  # noqa: ARG002 - as langchain calls it
    ) -> None:
        """Take a call down."""
        if id(metadata) in self._by_metadata:
            self._has_shared = True
        _keep(self._by_metadata, metadata, str(run_id))

    def on_llm_new_token(
        self,
        token: str | list[str | dict[str, Any]],  # noqa: ARG002 - as langchain calls it
        *,
        chunk: GenerationChunk | ChatGenerationChunk | None = None,
        run_id: UUID,
        **kwargs: Any,  # noqa: ARG002 - as langchain calls it
    ) -> None:
        """Take a chunk down, where the metadata does not tell its call."""
        if isinstance(chunk, ChatGenerationChunk):
            _keep(self._by_message, chunk.message, str(run_id))

    def of(self, message: object, metadata: object) -> str | None:
        """Return the id of the call that streams a chunk; None of a whole message, or where it is not known."""
        if not isinstance(message, BaseMessageChunk):
            return None
        if self._has_shared and (found := self._by_message.pop(id(message), None)) is not None:
            return found[1]
        found = self._by_metadata.get(id(metadata))
        return None if found is None else found[1]


def _keep(calls: OrderedDict[int, tuple[object, str]], key: object, call: str) -> None:
    calls[id(key)] = (key, call)
    if len(calls) > _MOST_CALLS:
        calls.popitem(last=False)
