"""A chat model that never says the same twice.

Every execution of a node has a nonce. What is executed again says something else, so a token of an execution that was
given up cannot be taken for one of the execution that was saved.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, Final

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.chat_models import agenerate_from_stream
from langchain_core.messages import AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables.config import ensure_config
from tests.support.oracle.marks import Mark

WORDS: Final = 12
"""How many words a model says unless the run's config tells (`configurable`, `words`)."""
PAUSE: Final = 0.003
"""Seconds between two words unless the run's config tells (`configurable`, `pause`)."""


class Speaker(BaseChatModel):
    """Says a mark and some words, one after the other.

    Args:
        talkative: the factor by which it says more words than others.
        calls: the tool calls of its first, second ... reply in a turn; the replies after these have none.
    """

    talkative: float = 1.0
    calls: list[list[str]] = []  # noqa: RUF012 - pydantic copies it

    @property
    def _llm_type(self) -> str:
        return "speaker"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Any:
        return self

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        raise NotImplementedError("this model is for asynchronous nodes")

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return await agenerate_from_stream(self._astream(messages, stop, run_manager, **kwargs))

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        *,
        mark: str | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        configurable = ensure_config().get("configurable", {})
        words = max(1, round(self.talkative * int(configurable.get("words", WORDS))))
        pause = float(configurable.get("pause", PAUSE))
        for piece in self._pieces(messages, mark or str(Mark.new("model")), words):
            await asyncio.sleep(pause)
            yield piece

    def _pieces(self, messages: Sequence[BaseMessage], mark: str, words: int) -> Iterator[ChatGenerationChunk]:
        yield _piece(content=mark)
        for number in range(words):
            yield _piece(content=f" word{number}")
        for index, name in enumerate(self._calls_now(messages)):
            # As real models stream them: the name first, then the arguments in parts.
            args = json.dumps({"word": secrets.token_hex(4)})
            parts = ((name, "", f"call_{secrets.token_hex(4)}"), (None, args[:7], None), (None, args[7:], None))
            for told, part, call_id in parts:
                chunk = tool_call_chunk(name=told, args=part, id=call_id, index=index)
                yield _piece(content="", tool_call_chunks=[chunk])
        yield _piece(content="", chunk_position="last")

    def _calls_now(self, messages: Sequence[BaseMessage]) -> list[str]:
        turn = 0
        for message in reversed(messages):
            if isinstance(message, HumanMessage):
                break
            turn += message.type == "ai"
        return self.calls[turn] if turn < len(self.calls) else []


def _piece(**fields: Any) -> ChatGenerationChunk:
    return ChatGenerationChunk(message=AIMessageChunk(**fields))
