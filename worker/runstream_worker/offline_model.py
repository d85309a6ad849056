"""A chat model that needs no network: what the default agent talks to while no real model is configured.

It is not a language model and says so. It exists so that everything around a model can be seen working on a machine
without a key: tokens that stream, tool calls (parallel ones, too), usage. The same conversation gets the same answer.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, ToolCall, ToolMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import Field

TIME_TOOL = "current_time"
CALCULATOR_TOOL = "calculate"  # with one argument, `expression`

_MODEL_NAME = "offline"
_ABOUT = (
    "I am runstream's offline model, not a real language model. To talk to a real one, set OPENAI_API_KEY (and "
    "OPENAI_BASE_URL and RUNSTREAM_MODEL if you like) and restart the worker."
)
_ASKS_FOR_TIME = re.compile(r"\b(time|clock|date|today)\b", re.IGNORECASE)
_NUMBER = r"\d+(?:\.\d+)?"
_ARITHMETIC = re.compile(rf"[-(]*{_NUMBER}\)*(?:\s*(?:\*\*|//|[-+*/%])\s*[-(]*{_NUMBER}\)*)+")
_QUOTE_LIMIT = 200


@dataclass(frozen=True)
class _Reply:
    """What the model has decided to say: text, or the tools to call."""

    text: str
    tool_calls: tuple[ToolCall, ...] = ()

    @property
    def finish_reason(self) -> str:
        return "tool_calls" if self.tool_calls else "stop"


class OfflineChatModel(BaseChatModel):
    """Answers word by word, and calls the default agent's tools where the question asks for them.

    Attributes:
        token_delay: seconds between two chunks of a streamed answer.
    """

    token_delay: float = Field(default=0.03, ge=0)

    @property
    def _llm_type(self) -> str:
        return _MODEL_NAME

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model_name": _MODEL_NAME, "token_delay": self.token_delay}

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Let the model call those of the tools that it knows; with `tool_choice="none"` it calls none."""
        formatted = [] if tool_choice == "none" else [convert_to_openai_tool(tool) for tool in tools]
        return self.bind(tools=formatted, **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,  # noqa: ARG002 - the base class's signature
        run_manager: CallbackManagerForLLMRun | None = None,  # noqa: ARG002 - the base class's signature
        **kwargs: Any,
    ) -> ChatResult:
        reply = _reply(messages, kwargs.get("tools", ()))
        message = AIMessage(
            content=reply.text,
            tool_calls=list(reply.tool_calls),
            usage_metadata=_usage(messages, len(_words(reply.text))),
            response_metadata={"finish_reason": reply.finish_reason, "model_name": _MODEL_NAME},
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,  # noqa: ARG002 - the base class's signature
        run_manager: CallbackManagerForLLMRun | None = None,  # noqa: ARG002 - the base class calls it for each chunk
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        for chunk in _chunks(messages, _reply(messages, kwargs.get("tools", ()))):
            time.sleep(self.token_delay)
            yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,  # noqa: ARG002 - the base class's signature
        run_manager: AsyncCallbackManagerForLLMRun | None = None,  # noqa: ARG002 - the base class calls it for each chunk
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        for chunk in _chunks(messages, _reply(messages, kwargs.get("tools", ()))):
            await asyncio.sleep(self.token_delay)
            yield chunk


def _reply(messages: Sequence[BaseMessage], tools: Sequence[dict[str, Any]]) -> _Reply:
    asked_at = max((at for at, message in enumerate(messages) if isinstance(message, HumanMessage)), default=None)
    if asked_at is None:
        return _Reply(f"Nobody has asked anything yet. {_ABOUT}")
    question = " ".join(messages[asked_at].text.split())
    results = [message.text for message in messages[asked_at:] if isinstance(message, ToolMessage)]
    if results:
        return _Reply(f"The tool says: {'; '.join(results)}. {_ABOUT}")
    calls = _tool_calls(question, {tool["function"]["name"] for tool in tools}, len(messages))
    if calls:
        return _Reply("", calls)
    shortened = question if len(question) <= _QUOTE_LIMIT else f"{question[:_QUOTE_LIMIT]}..."
    return _Reply(f"You said: {shortened} {_ABOUT} Ask me for the time or for a sum, and I call a tool.")


def _tool_calls(question: str, known: set[str], position: int) -> tuple[ToolCall, ...]:
    """The calls that the question asks for; the position in the conversation makes their ids unique and repeatable."""
    wanted: list[tuple[str, dict[str, str]]] = []
    if _ASKS_FOR_TIME.search(question):
        wanted.append((TIME_TOOL, {}))
    expression = _ARITHMETIC.search(question)
    if expression is not None:
        wanted.append((CALCULATOR_TOOL, {"expression": expression.group()}))
    return tuple(
        ToolCall(name=name, args=args, id=f"call_{position}_{index}", type="tool_call")
        for index, (name, args) in enumerate(wanted)
        if name in known
    )


def _chunks(messages: Sequence[BaseMessage], reply: _Reply) -> Iterator[ChatGenerationChunk]:
    """The reply as a provider streams it: words, tool calls in pieces, then usage and the reason for ending.

    The chunks have no id: langchain-core gives all chunks of one call the id of that call.
    """
    words = _words(reply.text)
    for word in words:
        yield ChatGenerationChunk(message=AIMessageChunk(content=word))
    for index, call in enumerate(reply.tool_calls):
        yield _call_chunk(index, name=call["name"], args="", call_id=call["id"])
        yield _call_chunk(index, name=None, args=json.dumps(call["args"]), call_id=None)
    usage = _usage(messages, len(words))
    yield ChatGenerationChunk(
        message=AIMessageChunk(content="", usage_metadata=usage, chunk_position="last"),
        generation_info={"finish_reason": reply.finish_reason, "model_name": _MODEL_NAME},
    )


def _call_chunk(index: int, *, name: str | None, args: str, call_id: str | None) -> ChatGenerationChunk:
    piece = tool_call_chunk(name=name, args=args, id=call_id, index=index)
    return ChatGenerationChunk(message=AIMessageChunk(content="", tool_call_chunks=[piece]))


def _words(text: str) -> list[str]:
    """The text in pieces that give it back when joined: each word with the space before it."""
    return re.findall(r"\s*\S+", text)


def _usage(messages: Sequence[BaseMessage], output_tokens: int) -> UsageMetadata:
    input_tokens = sum(len(_words(message.text)) for message in messages)
    return UsageMetadata(
        input_tokens=input_tokens, output_tokens=output_tokens, total_tokens=input_tokens + output_tokens
    )
