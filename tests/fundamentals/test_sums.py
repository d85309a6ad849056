"""Chunks of messages add up as LangChain adds them: whatever a model streams, token by token and in the end."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, message_chunk_to_message
from langchain_core.messages.ai import add_ai_message_chunks
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.runnables import RunnableLambda, RunnableParallel
from langchain_core.utils.json import parse_partial_json
from langgraph.graph import START, MessagesState, StateGraph
from tests.support.openai_server import OpenAIServer, ToolCall, ToolCalls
from tests.support.openai_server import Text as Tokens

from runstream import Event, Fold, Retraction, SpokenText
from runstream.codec import Decoder
from runstream.toolcalls import parse_partial
from runstream_worker.calls import ModelCalls
from runstream_worker.chunks import Chunk
from runstream_worker.default_agent import default_agent
from runstream_worker.encoding import JsonEncoder
from runstream_worker.events import EventEncoder
from runstream_worker.offline_model import OfflineChatModel
from runstream_worker.origins import Placed

NODE = {"langgraph_node": "model"}


def as_json(message: Any) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(JsonEncoder().encode_data("values", message.model_dump()))
    return told


def event(number: int, message: AIMessageChunk, **fields: Any) -> Event:
    return Event(f"1-{number}", "messages", (), [as_json(message), NODE], task="t", **fields)


def check(chunks: Sequence[AIMessageChunk]) -> None:
    """The fold has LangChain's sum after each chunk, and its message after the last."""
    fold = Fold()
    for number, chunk in enumerate(chunks, 1):
        fold.apply(event(number, chunk))
        (told,) = fold.messages
        total = add_ai_message_chunks(chunks[0], *chunks[1:number])
        expected = message_chunk_to_message(total) if total.chunk_position == "last" else total
        assert told == as_json(expected)
    fold.apply(Event("1-9999", "end", (), {"status": "success", "at": 0}))
    (told,) = fold.messages
    assert told == as_json(message_chunk_to_message(add_ai_message_chunks(chunks[0], *chunks[1:])))


TEXT = st.text(st.characters(codec="utf-8"), max_size=4)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | TEXT,
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "id", "index"]), inner, max_size=2)
    ),
    max_leaves=4,
)
OBJECT = st.dictionaries(st.sampled_from(["a", "b", "id", "model_provider", "created", "type"]), VALUE, max_size=3)
BLOCK = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "reasoning", "non_standard"])},
    optional={
        "text": TEXT,
        "value": st.fixed_dictionaries({"type": TEXT, "x": TEXT}),
        "index": st.sampled_from([0, 1, "lc_1", "lc_2"]),
        "id": st.sampled_from(["", "one", "two"]),
        "extras": OBJECT,
    },
)
CALL = st.fixed_dictionaries(
    {
        "name": st.sampled_from([None, "add", "mul"]),
        "args": st.sampled_from([None, "", "{", '{"a": ', "1", '"x\n', '"', "}", "[", "]", ', "b": tr', "{}"]),
        "id": st.sampled_from([None, "", "call_1", "call_2"]),
        "index": st.sampled_from([None, 0, 1]),
    }
)
USAGE = st.fixed_dictionaries(
    {name: st.integers(0, 9) for name in ("input_tokens", "output_tokens", "total_tokens")},
    optional={"input_token_details": st.dictionaries(st.sampled_from(["cache_read", "audio"]), st.integers(0, 9))},
)
CHUNK = st.builds(
    AIMessageChunk,
    content=TEXT | st.lists(BLOCK | TEXT, max_size=2),
    id=st.just("lc_run--1"),
    additional_kwargs=OBJECT,
    response_metadata=OBJECT,
    tool_call_chunks=st.lists(CALL, max_size=2),
    usage_metadata=st.none() | USAGE,
)


@given(st.lists(CHUNK, min_size=1, max_size=6))
def test_any_chunks_add_up_as_langchain_adds_them(chunks: list[AIMessageChunk]) -> None:
    if langchain_refuses(chunks):
        fold = Fold()
        for number, chunk in enumerate(chunks, 1):
            fold.apply(event(number, chunk))
        assert len(fold.messages) == 1
    else:
        check(chunks)


def langchain_refuses(chunks: Sequence[AIMessageChunk]) -> bool:
    try:
        add_ai_message_chunks(chunks[0], *chunks[1:])
    except (TypeError, ValueError):
        return True
    return False


V1_BLOCK = st.fixed_dictionaries(
    {"type": st.just("text"), "text": TEXT, "index": st.integers(0, 1)}, optional={"extras": OBJECT}
) | st.fixed_dictionaries(
    {
        "type": st.sampled_from(["tool_call_chunk", "server_tool_call_chunk"]),
        "args": st.sampled_from(["", "{}", '{"a": 1}', "[", None]),
        "id": st.sampled_from(["call_1", "call_2", ""]),
        "name": st.just("add"),
    }
)


@given(st.lists(st.lists(V1_BLOCK, max_size=2), min_size=1, max_size=3))
def test_content_of_version_1_is_finished_as_langchain_finishes_it(contents: list[list[Any]]) -> None:
    chunks = [
        AIMessageChunk(
            content=content,
            id="m",
            response_metadata={"output_version": "v1"},
            tool_call_chunks=[
                {"name": block["name"], "args": block["args"], "id": block["id"], "index": None}
                for block in content
                if block["type"] == "tool_call_chunk"
            ],
        )
        for content in contents
    ]
    chunks.append(AIMessageChunk(content=[], id="m", chunk_position="last"))
    assume(not langchain_refuses(chunks))
    check(chunks)


BROKEN = st.builds(lambda value, cut: json.dumps(value)[:cut], VALUE, st.integers(0, 30))


@given(st.text(alphabet='{}[]",:\\\n\t abtrue1.5-nul', max_size=20) | BROKEN)
def test_json_that_breaks_off_amounts_to_what_langchain_makes_of_it(text: str) -> None:
    assert outcome(parse_partial, text) == outcome(parse_partial_json, text)


def outcome(parse: Callable[[str], Any], text: str) -> Any:
    try:
        return parse(text)
    except ValueError as error:
        return type(error)


async def streamed(model: Any, question: str) -> list[AIMessageChunk]:
    return [chunk async for chunk in model.astream(question)]


async def test_what_the_offline_model_streams() -> None:
    tools = [{"type": "function", "function": {"name": "calculate", "description": "x", "parameters": {}}}]
    model = OfflineChatModel(token_delay=0)
    check(await streamed(model, "Hello, you!"))
    check(await streamed(model.bind_tools(tools), "What is 6 * 7?"))


async def test_what_the_client_of_openai_streams() -> None:
    calls = [ToolCall("weather", {"city": "Bern", "days": [1, 2]}), ToolCall("time")]
    async with (
        OpenAIServer([Tokens(["Hel", "lo", " \N{HONEYBEE}"]), ToolCalls(calls, ["Let", " me"])]) as server,
        server.model() as model,
    ):
        check(await streamed(model, "Hello!"))
        check(await streamed(model, "The weather?"))


class Providing(OfflineChatModel):
    """Tells an id of its own with one of its chunks only, as some providers do; LangChain gives the others another."""

    async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
        number, own_id = 0, f"msg_{uuid4()}"
        async for chunk in super()._astream(*args, **kwargs):
            number += 1
            if number == self.told_at:
                chunk.message.id = own_id
            yield chunk

    told_at: int = 2


class Fixed(OfflineChatModel):
    """Gives all its messages one id."""

    async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
        async for chunk in super()._astream(*args, **kwargs):
            chunk.message.id = "msg_fixed"
            yield chunk


async def folded(graph: Any, question: dict[str, Any], **options: Any) -> tuple[Fold, Any]:
    """A graph's stream, folded, and its last state."""
    fold, number, calls = Fold(), 0, ModelCalls()
    values: Any = None
    config = {"callbacks": [calls]}
    stream = graph.astream(question, config, stream_mode=["messages", "values"], subgraphs=True, **options)
    async for ns, mode, data in stream:
        number += 1
        task = "|".join(ns) if mode == "values" else data[1]["langgraph_checkpoint_ns"]
        call = calls.of(*data) if mode == "messages" else None
        told = json.loads(JsonEncoder().encode_data(mode, data))
        fold.apply(Event(f"1-{number}", mode, ns, told, task=task, call=call))
        values = data if mode == "values" and not ns else values
    fold.apply(Event(f"1-{number + 1}", "end", (), {"status": "success", "at": 0}))
    return fold, values


def said(values: Any) -> list[dict[str, Any]]:
    return [as_json(message) for message in values["messages"] if not isinstance(message, HumanMessage)]


@pytest.mark.parametrize("told_at", [1, 2, 3])
async def test_a_message_whose_chunks_have_two_ids_is_one(told_at: int) -> None:
    model = Providing(token_delay=0, told_at=told_at)

    async def answer(state: MessagesState) -> Any:
        return {"messages": [await model.ainvoke(state["messages"]), await model.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState).add_node(answer).add_edge(START, "answer").compile()
    fold, values = await folded(graph, {"messages": [("user", "Hello!")]})

    assert fold.messages == said(values)
    assert [message["id"][:4] for message in fold.messages] == ["msg_", "msg_"]


async def in_one_prompt(models: Sequence[Any], prompts: Sequence[Any]) -> list[Any]:
    """Several prompts for one model in one call of `agenerate`: LangChain gives their calls one metadata object."""
    result = await models[0].agenerate(prompts)
    return [generations[0].message for generations in result.generations]


async def at_once(models: Sequence[Any], prompts: Sequence[Any]) -> list[Any]:
    return await asyncio.gather(*(model.ainvoke(prompt) for model, prompt in zip(models, prompts, strict=True)))


async def in_a_batch(models: Sequence[Any], prompts: Sequence[Any]) -> list[Any]:
    found: list[Any] = await models[0].abatch(prompts)
    return found


def _given(prompt: Any, _: object) -> Any:
    return prompt


async def in_sequences(models: Sequence[Any], prompts: Sequence[Any]) -> list[Any]:
    """Within other runnables, whose callbacks lie between the node's and the model's."""
    steps = zip(models, prompts, strict=True)
    runnables = RunnableParallel(
        {str(at): RunnableLambda(partial(_given, prompt)) | model for at, (model, prompt) in enumerate(steps)}
    )
    return list((await runnables.ainvoke(None)).values())


@pytest.mark.parametrize("told_at", [1, 2, 3, 60])
@pytest.mark.parametrize("speak", [at_once, in_a_batch, in_one_prompt, in_sequences])
async def test_models_that_speak_at_once_in_one_node_are_not_swapped(speak: Any, told_at: int) -> None:
    models = [Providing(token_delay=0.001 * number, told_at=told_at) for number in range(3)]

    async def answer(state: MessagesState) -> Any:
        return {"messages": await speak(models, [[HumanMessage(f"{name}!")] for name in ("Alpha", "Beta", "Gamma")])}

    graph = StateGraph(MessagesState).add_node(answer).add_edge(START, "answer").compile()
    fold, values = await folded(graph, {"messages": [("user", "Hello!")]})
    assert len(fold.messages) == 3
    by_id = {message["id"]: message for message in fold.messages}
    assert by_id == {message["id"]: message for message in said(values)}


async def test_a_further_call_under_the_same_id_takes_the_place_of_the_one_before() -> None:
    model = Fixed(token_delay=0)

    async def answer(state: MessagesState) -> Any:
        return {"messages": [await model.ainvoke("One!"), await model.ainvoke("Two!")]}

    graph = StateGraph(MessagesState).add_node(answer).add_edge(START, "answer").compile()
    fold, values = await folded(graph, {"messages": [("user", "Hello!")]})
    assert fold.messages == said(values)
    assert len(fold.messages) == 1


@pytest.mark.parametrize("model", [OfflineChatModel(token_delay=0), Providing(token_delay=0)])
async def test_the_folded_messages_of_an_agent_are_those_of_its_state(model: BaseChatModel) -> None:
    def calculate(expression: str) -> str:
        """Compute."""
        return f"{expression} is 42"

    fold, values = await folded(create_agent(model, [calculate]), {"messages": [("user", "What is 6 * 7?")]})

    assert [message["type"] for message in fold.messages] == ["ai", "tool", "ai"]
    assert fold.messages == said(values)
    assert fold.values == json.loads(JsonEncoder().encode_data("values", values))


async def test_a_message_of_the_default_agent_has_its_metadata() -> None:
    fold, _ = await folded(default_agent(), {"messages": [("user", "Hello!")]})
    (message,) = fold.messages
    metadata = fold.metadata_of(message["id"])
    assert metadata is not None
    assert metadata["langgraph_node"] == "model"
    assert fold.metadata_of("another") is None


def test_a_long_message_takes_time_in_proportion_to_its_length_and_no_object_for_each_token() -> None:
    first = event(1, AIMessageChunk(content="", id="m"))
    fold = Fold()
    fold.apply(first)
    message = first.data[0]
    for number in range(2, 100_001):
        fold.apply(Event(f"1-{number}", "messages", (), [{**message, "content": "token "}, NODE], task="t"))
    assert fold.messages[0]["content"] == "token " * 99_999
    assert _objects(fold) < 1000


def _objects(root: object) -> int:
    """How many objects hang on one."""
    seen: dict[int, object] = {}
    pending: list[object] = [root]
    while pending:
        one = pending.pop()
        if id(one) not in seen and not isinstance(one, type):
            seen[id(one)] = one
            pending += gc.get_referents(one)
    return len(seen)


def contents(fold: Fold) -> list[str]:
    return [message["content"] for message in fold.messages]


def test_a_whole_message_replaces_what_there_was_of_it_and_a_removal_leaves_nothing() -> None:
    fold = Fold()
    parts = [event(n, AIMessageChunk(content=text, id=name)) for n, name, text in ((1, "a", "A"), (2, "b", "B"))]
    for part in parts:
        fold.apply(part)
    fold.apply(Event("1-3", "messages", (), [as_json(AIMessage("all of A", id="a")), NODE], task="other"))
    assert contents(fold) == ["all of A", "B"]
    fold.apply(Event("1-4", "messages", (), [{"type": "remove", "id": "b", "content": ""}, NODE], task="other"))
    assert contents(fold) == ["all of A"]
    fold.apply(event(5, AIMessageChunk(content="again", id="b")))
    assert contents(fold) == ["all of A", "again"]


def test_only_messages_of_the_nodes_that_were_named() -> None:
    fold = Fold(nodes={"model"})
    fold.apply(event(1, AIMessageChunk(content="A", id="a")))
    fold.apply(Event("1-2", "messages", (), [as_json(AIMessage("B", id="b")), {"langgraph_node": "other"}]))
    assert contents(fold) == ["A"]


HALVES = st.text(st.sampled_from(["a", "\ud83d", "\ude00", "\N{HONEYBEE}"]), max_size=3)
HALF_BLOCK = st.fixed_dictionaries(
    {"type": st.just("text"), "text": HALVES, "index": st.integers(0, 1)}
) | st.fixed_dictionaries({"type": st.just("reasoning"), "reasoning": HALVES, "index": st.just(2)})


# LangChain does not merge the entries of one chunk with each other.
HALF_BLOCKS = st.lists(HALF_BLOCK, max_size=2, unique_by=lambda block: block["index"])


def _halved(content: Any, args: str, index: int, more: str) -> AIMessageChunk:
    calls = [tool_call_chunk(args=args, index=index)]
    thought = {"reasoning_content": more}
    return AIMessageChunk(content=content, id="lc_run--1", tool_call_chunks=calls, additional_kwargs=thought)


def _saved(chunks: Sequence[AIMessageChunk]) -> dict[str, Any]:
    return as_json(add_ai_message_chunks(chunks[0], *chunks[1:]))


@given(
    st.lists(st.builds(_halved, HALVES, HALVES, st.integers(0, 1), HALVES), min_size=1, max_size=6)
    | st.lists(st.builds(_halved, HALF_BLOCKS, HALVES, st.just(0), HALVES), min_size=1, max_size=6)
)
def test_characters_that_come_in_two_chunks_are_what_is_saved(chunks: list[AIMessageChunk]) -> None:
    chunks.append(AIMessageChunk(content="" if isinstance(chunks[0].content, str) else [], id="lc_run--1"))
    chunks[-1].chunk_position = "last"
    encoder, decoder, fold, spoken = EventEncoder(JsonEncoder()), Decoder(), Fold(), SpokenText()
    said = ""
    for number, chunk in enumerate(chunks, 1):
        sent = Placed(Chunk("messages", (), (chunk, NODE), None, "call"), "t")
        read = decoder.decode(f"1-{number}", {b"1": encoder.encode(sent, f"1-{number}")})
        fold.apply(read)
        piece = spoken.apply(read)
        said += "" if piece is None or isinstance(piece, Retraction) else piece
    (told,) = fold.messages
    saved = _saved(chunks)
    for field in ("content", "additional_kwargs"):
        assert told[field] == saved[field]
    by_index = {call["index"]: call["args"] for call in saved["tool_call_chunks"] if call["args"]}
    assert {one["index"]: one["args"] for one in _calls_of(chunks) if one["args"]} == by_index
    if isinstance(saved["content"], str):
        assert said == saved["content"]


def _calls_of(chunks: Sequence[AIMessageChunk]) -> list[dict[str, Any]]:
    """The chunks of tool calls as readers sum them, before the last one makes calls of them."""
    encoder, decoder = EventEncoder(JsonEncoder()), Decoder()
    total: dict[int, str] = {}
    for number, chunk in enumerate(chunks, 1):
        sent = Placed(Chunk("messages", (), (chunk, NODE), None, "call"), "t")
        message = decoder.decode(f"1-{number}", {b"1": encoder.encode(sent, f"1-{number}")}).data[0]
        for call in message["tool_call_chunks"]:
            total[call["index"]] = total.get(call["index"], "") + (call["args"] or "")
    return [{"index": index, "args": args} for index, args in total.items()]
