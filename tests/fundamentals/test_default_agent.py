"""The agent without a configuration: what it answers offline, and which model the environment gives it."""

from __future__ import annotations

import re
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI
from pydantic import ValidationError

from runstream_worker.default_agent import DEFAULT_MODEL, calculate, chat_model, current_time, default_agent
from runstream_worker.offline_model import OfflineChatModel


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The default agent as it is on a machine without a key."""
    monkeypatch.setenv("OPENAI_API_KEY", "")
    return default_agent()


class TestAgent:
    def test_its_name_and_nodes(self, offline: Any) -> None:
        assert offline.name == "agent"
        assert {"model", "tools"} < set(offline.nodes)

    async def test_it_says_that_it_is_no_real_model_and_how_to_get_one(self, offline: Any) -> None:
        result = await offline.ainvoke({"messages": "Tell me a joke"})
        answer = result["messages"][-1].text
        assert "You said: Tell me a joke" in answer
        assert "not a real language model" in answer
        for variable in "OPENAI_API_KEY", "OPENAI_BASE_URL", "RUNSTREAM_MODEL":
            assert variable in answer

    async def test_it_streams_word_by_word(self, offline: Any) -> None:
        chunks = [chunk async for chunk, _ in offline.astream({"messages": "hi"}, stream_mode="messages")]
        assert len(chunks) > 20
        assert len({chunk.id for chunk in chunks}) == 1
        assert chunks[0].id
        assert [chunk.chunk_position for chunk in chunks] == [None] * (len(chunks) - 1) + ["last"]
        whole = await offline.ainvoke({"messages": "hi"})
        assert "".join(chunk.text for chunk in chunks) == whole["messages"][-1].text

    async def test_it_calls_two_tools_at_once_and_then_answers_with_what_they_said(self, offline: Any) -> None:
        result = await offline.ainvoke({"messages": "What time is it, and what is 2 * (3 + 4)?"})
        question, call, clock, calculator, answer = result["messages"]
        assert isinstance(question, HumanMessage)
        assert isinstance(call, AIMessage)
        assert [(each["name"], each["args"]) for each in call.tool_calls] == [
            ("current_time", {}),
            ("calculate", {"expression": "2 * (3 + 4)"}),
        ]
        assert isinstance(clock, ToolMessage)
        assert re.search(r"\d{4}-\d\d-\d\dT", clock.text)
        assert calculator.text == "2 * (3 + 4) = 14"
        assert calculator.text in answer.text
        assert clock.text in answer.text

    async def test_tool_call_ids_stay_unique_in_a_conversation(self, offline: Any) -> None:
        first = await offline.ainvoke({"messages": "1+1"})
        second = await offline.ainvoke({"messages": [*first["messages"], HumanMessage("2+2")]})
        ids = [call["id"] for message in second["messages"] for call in getattr(message, "tool_calls", [])]
        assert len(ids) == len(set(ids)) == 2
        assert "2+2 = 4" in second["messages"][-1].text


class TestOfflineModel:
    model = OfflineChatModel(token_delay=0)

    @pytest.mark.parametrize("question", ["hello there", "what is 2+2?"])
    async def test_all_ways_of_calling_it_agree(self, question: str) -> None:
        model = self.model.bind_tools([current_time, calculate])
        invoked = await model.ainvoke(question)
        for chunks in [[chunk async for chunk in model.astream(question)], list(model.stream(question))]:
            whole = sum(chunks[1:], chunks[0])
            assert isinstance(whole, AIMessageChunk)
            assert whole.text == invoked.text
            assert whole.tool_calls == invoked.tool_calls
            assert whole.usage_metadata == invoked.usage_metadata
            assert whole.response_metadata["finish_reason"] == invoked.response_metadata["finish_reason"]

    def test_tool_calls_come_in_pieces(self) -> None:
        chunks = list(self.model.bind_tools([current_time, calculate]).stream("the time and 1/4"))
        pieces = [piece for chunk in chunks if isinstance(chunk, AIMessageChunk) for piece in chunk.tool_call_chunks]
        assert [(piece["index"], piece["name"], piece["args"]) for piece in pieces] == [
            (0, "current_time", ""),
            (0, None, "{}"),
            (1, "calculate", ""),
            (1, None, '{"expression": "1/4"}'),
        ]

    @pytest.mark.parametrize("tools", [[], [current_time]])
    def test_it_calls_only_what_it_was_given(self, tools: list[Any]) -> None:
        assert self.model.bind_tools(tools).invoke("2+2").tool_calls == []
        assert self.model.bind_tools([calculate], tool_choice="none").invoke("2+2").tool_calls == []

    @pytest.mark.parametrize("question", ["a well-known fact", "2024", "in 2024-ish, at 10", "sometimes", ""])
    def test_what_is_no_question_for_a_tool(self, question: str) -> None:
        answer = self.model.bind_tools([current_time, calculate]).invoke([HumanMessage(question)])
        assert answer.tool_calls == []
        assert answer.text

    def test_a_conversation_without_a_question(self) -> None:
        assert "Nobody has asked" in self.model.invoke([AIMessage("hi")]).text

    def test_a_long_question_is_not_repeated_in_full(self) -> None:
        assert len(self.model.invoke("x" * 10_000).text) < 1_000

    def test_the_delay_cannot_be_negative(self) -> None:
        with pytest.raises(ValidationError, match="token_delay"):
            OfflineChatModel(token_delay=-1)


class TestWhichModel:
    @pytest.mark.parametrize("environ", [{}, {"OPENAI_API_KEY": ""}, {"RUNSTREAM_MODEL": "gpt-5"}])
    def test_without_a_key(self, environ: dict[str, str]) -> None:
        assert isinstance(chat_model(environ), OfflineChatModel)

    def test_openais_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENAI_BASE_URL", "")
        model = chat_model({"OPENAI_API_KEY": "key", "OPENAI_BASE_URL": "", "RUNSTREAM_MODEL": ""})
        assert isinstance(model, ChatOpenAI)
        assert model.model_name == DEFAULT_MODEL
        assert model.openai_api_base == "https://api.openai.com/v1"
        assert model.stream_usage is True

    def test_another_one(self) -> None:
        environ = {"OPENAI_API_KEY": "key", "OPENAI_BASE_URL": "http://127.0.0.1:1/v1", "RUNSTREAM_MODEL": "llama"}
        model = chat_model(environ)
        assert isinstance(model, ChatOpenAI)
        assert (model.model_name, model.openai_api_base) == ("llama", "http://127.0.0.1:1/v1")
        assert model.stream_usage is False


class TestCalculator:
    @pytest.mark.parametrize(
        ("expression", "result"),
        [
            ("1 + 2 * 3", "7"),
            ("-(2 + 3) ** 2", "-25"),
            ("7 // 2 + 7 % 4 - 1 / 4", "5.75"),
            (" 2 ** 0.5 ", "1.4142135623730951"),
        ],
    )
    def test_values(self, expression: str, result: str) -> None:
        assert calculate.invoke({"expression": expression}) == f"{expression} = {result}"

    @pytest.mark.parametrize(
        ("expression", "says"),
        [
            ("1 / 0", "division by zero"),
            ("2 **", "not an arithmetic expression"),
            ("1\x00", "not an arithmetic expression"),
            ("__import__('os')", "is not arithmetic"),
            ("True + 1", "'True' is not arithmetic"),
            ("(-1) ** 0.5", "not a real number"),
            ("9 ** 9 ** 9", "an exponent beyond 1000"),
            ("9 ** 999", "too large"),
            ("1e308 * 10", "too large"),
            ("1e400 - 1e400", "too large"),
            ("+".join("1" * 150), "longer than 200 characters"),
        ],
    )
    def test_refusals(self, expression: str, says: str) -> None:
        answer = calculate.invoke({"expression": expression})
        assert answer.startswith("cannot calculate ")
        assert says in answer
