"""A chat model that says what it was told to, token by token, the same whoever runs it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult


class ScriptedModel(BaseChatModel):
    """Gives the reply whose place in `replies` is the number of AI messages in the conversation."""

    replies: list[AIMessage]

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Any:
        return self

    def _reply(self, messages: Sequence[BaseMessage]) -> AIMessage:
        said = sum(isinstance(message, AIMessage) for message in messages)
        return self.replies[said % len(self.replies)]

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self._reply(messages).model_copy())])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        yield from _pieces(self._reply(messages))

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        for piece in _pieces(self._reply(messages)):
            yield piece


def _pieces(reply: AIMessage) -> Iterator[ChatGenerationChunk]:
    for word in re.findall(r"\s*\S+", reply.text):
        yield ChatGenerationChunk(message=AIMessageChunk(content=word, response_metadata={"model_provider": "script"}))
    for index, call in enumerate(reply.tool_calls):
        for name, args, call_id in ((call["name"], "", call["id"]), (None, '{"city": ', None), (None, '"Bern"}', None)):
            piece = tool_call_chunk(name=name, args=args, id=call_id, index=index)
            yield ChatGenerationChunk(message=AIMessageChunk(content="", tool_call_chunks=[piece]))
    usage = UsageMetadata(input_tokens=3, output_tokens=5, total_tokens=8)
    last = AIMessageChunk(content="", usage_metadata=usage, chunk_position="last")
    yield ChatGenerationChunk(message=last, generation_info={"finish_reason": "stop"})
