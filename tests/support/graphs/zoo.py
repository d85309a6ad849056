"""The graphs. Where branches run in parallel, events put them in one order, so that their chunks have one, too."""

from __future__ import annotations

import asyncio
import dataclasses
import operator
from typing import Annotated, Any, Final, TypedDict

from langchain.agents import create_agent
from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, HumanMessage, SystemMessage, ToolCall
from langchain_core.tools import tool
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.config import get_config, get_stream_writer
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph, add_messages
from langgraph.runtime import Runtime
from langgraph.types import Command, Overwrite, Send, interrupt
from pydantic import BaseModel, Field
from tests.support.graphs.case import Case
from tests.support.graphs.model import ScriptedModel

Saver = BaseCheckpointSaver[Any]


class Chat(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]


class Steps(TypedDict, total=False):
    steps: Annotated[list[str], operator.add]
    total: int


MODEL: Final = ScriptedModel(replies=[AIMessage("Hello, how can I help \N{HONEYBEE}?"), AIMessage("Good bye.")])


# --- chat -------------------------------------------------------------------------------------------------------------


async def answer(state: Chat) -> Any:
    return {"messages": [await MODEL.ainvoke(state["messages"])]}


def chat(saver: Saver) -> Any:
    return StateGraph(Chat).add_node("answer", answer).add_edge(START, "answer").compile(checkpointer=saver)


def sync_answer(state: Chat) -> Any:
    get_stream_writer()("thinking")
    return {"messages": [MODEL.invoke(state["messages"])]}


async def rate(state: Chat) -> Any:
    """Asks a model, and leaves the answer out of the state."""
    hidden = ScriptedModel(replies=[AIMessage("so so")]).with_config(tags=["nostream"])
    shown = ScriptedModel(replies=[AIMessage("quite good")]).with_config(tags=["rating"], run_name="rater")
    said = [(await model.ainvoke("how was it?")).text for model in (hidden, shown)]
    return {"messages": [SystemMessage(" and ".join(said))]}


def sync_chat(saver: Saver) -> Any:
    graph = StateGraph(Chat).add_node("answer", sync_answer).add_node("rate", rate)
    return graph.add_edge(START, "answer").add_edge("answer", "rate").compile(checkpointer=saver)


@tool
async def weather(city: str) -> str:
    """Tell the weather."""
    get_stream_writer()({"looking up": city})
    return f"rain in {city}"


@tool
async def population(city: str) -> str:
    """Tell how many live there."""
    raise ValueError(f"nobody counted {city}")


def agent(saver: Saver) -> Any:
    calls = [ToolCall(name="weather", args={"city": "Bern"}, id=f"call_{n}", type="tool_call") for n in range(2)]
    model = ScriptedModel(replies=[AIMessage("Let me see.", tool_calls=calls), AIMessage("It rains.")])
    return create_agent(model, [weather], system_prompt="Be brief.", checkpointer=saver)


def failing_agent(saver: Saver) -> Any:
    call = ToolCall(name="population", args={"city": "Bern"}, id="call_1", type="tool_call")
    return create_agent(ScriptedModel(replies=[AIMessage("", tool_calls=[call])]), [population], checkpointer=saver)


# --- branches ---------------------------------------------------------------------------------------------------------


class Turns:
    """Lets parallel branches take turns, in the order of their names, once."""

    def __init__(self, *names: str) -> None:
        self._ended = {name: asyncio.Event() for name in names}

    def node(self, name: str) -> Any:
        async def run(state: Any) -> Any:
            for earlier, ended in self._ended.items():
                if earlier == name:
                    break
                await ended.wait()
            write = get_stream_writer()
            write({"branch": name})
            reply = await MODEL.ainvoke([HumanMessage(name)])
            write(("done", name))
            self._ended[name].set()
            return {"steps": [f"{name}: {reply.text}"]}

        return run


def parallel(saver: Saver) -> Any:
    names = ("first", "second", "third")
    turns = Turns(*names)
    graph = StateGraph(Steps)
    for name in names:
        graph.add_node(name, turns.node(name)).add_edge(START, name)
    graph.add_node("join", step("join")).add_edge(list(names), "join")
    return graph.compile(checkpointer=saver)


def step(name: str) -> Any:
    async def run(state: Any) -> Any:
        get_stream_writer()(f"in {name}")
        return {"steps": [name]}

    return run


class Item(TypedDict):
    item: int


def map_reduce(saver: Saver) -> Any:
    async def square(state: Item) -> Any:
        get_stream_writer()({"squaring": state["item"]})
        return {"steps": [str(state["item"] ** 2)]}

    async def add(state: Steps) -> Any:
        return {"total": sum(int(number) for number in state["steps"])}

    graph = StateGraph(Steps).add_node("square", square).add_node("add", add)
    graph.add_conditional_edges(START, lambda state: [Send("square", {"item": n}) for n in range(4)], ["square"])
    return graph.add_edge("square", "add").compile(checkpointer=saver)


def jumps(saver: Saver) -> Any:
    async def first(state: Steps) -> Command[Any]:
        return Command(update={"steps": ["first"]}, goto=[Send("third", {"steps": ["sent"]}), "second"])

    async def second(state: Steps) -> Any:
        return [Command(update={"steps": ["second"]}), {"total": 2}]

    async def third(state: Steps) -> Any:
        return {"steps": [f"third after {state['steps']}"]}

    async def last(state: Steps) -> Any:
        return {"steps": Overwrite(["only this"])}

    graph = StateGraph(Steps).add_node("first", first, destinations=("second", "third"))
    graph.add_node("second", second).add_node("third", third).add_node("last", last, defer=True)
    return graph.add_edge(START, "first").add_edge(["second", "third"], "last").compile(checkpointer=saver)


def loop(saver: Saver) -> Any:
    async def count(state: Steps) -> Any:
        return {"total": state.get("total", 0) + 1}

    async def nothing(state: Steps) -> None:
        return None

    graph = StateGraph(Steps).add_node("count", count).add_node("nothing", nothing)
    graph.add_edge(START, "count").add_edge("count", "nothing")
    graph.add_conditional_edges("nothing", lambda state: END if state["total"] == 3 else "count", ["count", END])
    return graph.compile(checkpointer=saver)


# --- subgraphs --------------------------------------------------------------------------------------------------------


class Deep(Steps, Chat, total=False):
    pass


def nested(saver: Saver) -> Any:
    inner = StateGraph(Deep).add_node("model", answer).add_node("write", step("inner"))
    inner.add_edge(START, "model").add_edge("model", "write")
    middle = StateGraph(Deep).add_node("inner", inner.compile()).add_node("after", step("middle"))
    middle.add_edge(START, "inner").add_edge("inner", "after")
    compiled = middle.compile()

    async def called(state: Deep) -> Any:
        return {"steps": [(await compiled.ainvoke({"messages": [HumanMessage("inside")]}))["steps"][-1]]}

    outer = StateGraph(Deep).add_node("middle", compiled).add_node("called", called)
    return outer.add_edge(START, "middle").add_edge("middle", "called").compile(checkpointer=saver)


def parallel_subgraphs(saver: Saver) -> Any:
    turns = Turns("left", "right")
    outer = StateGraph(Steps)
    for name in ("left", "right"):
        inner = StateGraph(Steps).add_node("work", turns.node(name)).add_edge(START, "work")
        outer.add_node(name, inner.compile()).add_edge(START, name)
    return outer.compile(checkpointer=saver)


def asking_subgraph(saver: Saver) -> Any:
    inner = StateGraph(Steps).add_node("before", step("before")).add_node("ask", ask)
    inner.add_edge(START, "before").add_edge("before", "ask")
    outer = StateGraph(Steps).add_node("inner", inner.compile()).add_node("after", step("after"))
    return outer.add_edge(START, "inner").add_edge("inner", "after").compile(checkpointer=saver)


# --- interrupts -------------------------------------------------------------------------------------------------------


async def ask(state: Any) -> Any:
    get_stream_writer()("asking")
    return {"steps": [f"answer: {interrupt({'question': 'go on?'})}"]}


def asking(saver: Saver) -> Any:
    graph = StateGraph(Steps).add_node("before", step("before")).add_node("ask", ask).add_node("after", step("after"))
    return (
        graph.add_edge(START, "before").add_edge("before", "ask").add_edge("ask", "after").compile(checkpointer=saver)
    )


def asking_twice_at_once(saver: Saver) -> Any:
    """Two nodes ask in one step."""

    async def one(state: Steps) -> Any:
        return {"steps": [f"one: {interrupt('one?')}"]}

    async def two(state: Steps) -> Any:
        return {"steps": [f"two: {interrupt('two?')}"]}

    graph = StateGraph(Steps).add_node("one", one).add_node("two", two)
    return graph.add_edge(START, "one").add_edge(START, "two").compile(checkpointer=saver)


def three_steps(saver: Saver) -> Any:
    graph = StateGraph(Steps)
    return graph.add_sequence([(name, step(name)) for name in "abc"]).add_edge(START, "a").compile(checkpointer=saver)


def compiled_to_stop(saver: Saver) -> Any:
    graph = StateGraph(Steps).add_sequence([(name, step(name)) for name in "abc"]).add_edge(START, "a")
    return graph.compile(checkpointer=saver, interrupt_before=["b"], interrupt_after=["b"])


# --- the functional API -----------------------------------------------------------------------------------------------


@task
async def double(number: int) -> int:
    get_stream_writer()({"doubling": number})
    return number * 2


@task
def say(text: str) -> BaseMessage:
    return MODEL.invoke(text)


def functional(saver: Saver) -> Any:
    @entrypoint(checkpointer=saver)
    async def workflow(number: int, *, previous: Any = None) -> entrypoint.final[Any, Any]:
        get_stream_writer()({"previous": previous})
        doubled = await double(number)
        said = await say("how many?")
        return entrypoint.final(value={"doubled": doubled, "said": said.text}, save=doubled)

    return workflow


def functional_asking(saver: Saver) -> Any:
    @entrypoint(checkpointer=saver)
    async def workflow(number: int) -> str:
        doubled = await double(number)
        return f"{doubled}: {interrupt({'is it': doubled})}"

    return workflow


# --- states -----------------------------------------------------------------------------------------------------------


class Person(BaseModel):
    name: str
    age: int = 0


class Model(BaseModel):
    messages: Annotated[list[AnyMessage], add_messages] = Field(default_factory=list)
    person: Person
    count: int = 0


@dataclasses.dataclass
class Data:
    name: str
    steps: Annotated[list[str], operator.add] = dataclasses.field(default_factory=list)
    people: tuple[Person, ...] = ()


def pydantic_state(saver: Saver) -> Any:
    async def grow(state: Model) -> Any:
        return {"person": state.person.model_copy(update={"age": 1}), "messages": [AIMessage("grown", id="ai-1")]}

    async def count(state: Model) -> Any:
        return Model(person=state.person, count=state.count + 1)

    graph = StateGraph(Model).add_sequence([("grow", grow), ("count", count)]).add_edge(START, "grow")
    return graph.compile(checkpointer=saver)


def pydantic_asking(saver: Saver) -> Any:
    async def age(state: Model) -> Any:
        return {"person": state.person.model_copy(update={"age": interrupt(state.person)})}

    return StateGraph(Model).add_node("age", age).add_edge(START, "age").compile(checkpointer=saver)


class Text(BaseModel):
    text: str


class Measured(Text):
    length: int


def late_field(saver: Saver) -> Any:
    """A required field of the output is there only after the first step."""

    async def measure(state: Text) -> Any:
        return {"length": len(state.text)}

    graph = StateGraph(Measured, input_schema=Text).add_node("measure", measure).add_edge(START, "measure")
    return graph.compile(checkpointer=saver)


def dataclass_state(saver: Saver) -> Any:
    async def greet(state: Data) -> Any:
        return {"steps": [f"hello {state.name}"], "people": (Person(name="Ada", age=36),)}

    return StateGraph(Data).add_node("greet", greet).add_edge(START, "greet").compile(checkpointer=saver)


def dataclass_asking(saver: Saver) -> Any:
    async def greet(state: Data) -> Any:
        return {"steps": [interrupt(f"how to greet {state.name}?")]}

    return StateGraph(Data).add_node("greet", greet).add_edge(START, "greet").compile(checkpointer=saver)


class Question(TypedDict):
    question: str


class Answer(TypedDict):
    answer: str


class Private(TypedDict):
    guess: str


class Whole(Question, Answer):
    pass


def schemas(saver: Saver) -> Any:
    async def guess(state: Question) -> Private:
        return {"guess": state["question"].upper()}

    async def tell(state: Private) -> Answer:
        return {"answer": state["guess"] + "!"}

    graph = StateGraph(Whole, input_schema=Question, output_schema=Answer).add_node("guess", guess)
    graph.add_node("tell", tell)
    return graph.add_edge(START, "guess").add_edge("guess", "tell").compile(checkpointer=saver)


def no_answer(saver: Saver) -> Any:
    """Nothing ever writes what the output schema has."""

    async def think(state: Question) -> Private:
        return {"guess": "hm"}

    graph = StateGraph(Whole, input_schema=Question, output_schema=Answer).add_node("think", think)
    return graph.add_edge(START, "think").compile(checkpointer=saver)


def asking_with_schemas(saver: Saver) -> Any:
    async def tell(state: Question) -> Answer:
        return {"answer": interrupt(state["question"])}

    graph = StateGraph(Whole, input_schema=Question, output_schema=Answer).add_node("tell", tell)
    return graph.add_edge(START, "tell").compile(checkpointer=saver)


def root_state(saver: Saver) -> Any:
    async def more(state: list[int]) -> list[int]:
        return [len(state)]

    graph: Any = StateGraph(Annotated[list[int], operator.add])  # type: ignore[arg-type]  # a state need not be a class
    return graph.add_sequence([("more", more), ("again", more)]).add_edge(START, "more").compile(checkpointer=saver)


@dataclasses.dataclass
class User:
    name: str
    roles: list[str] = dataclasses.field(default_factory=list)


def context(saver: Saver) -> Any:
    async def greet(state: Steps, runtime: Runtime[User]) -> Any:
        runtime.stream_writer({"roles": runtime.context.roles})
        return {"steps": [f"hello {runtime.context.name}, {get_config()['configurable']['mood']}"]}

    graph = StateGraph(Steps, context_schema=User).add_node("greet", greet).add_edge(START, "greet")
    return graph.compile(checkpointer=saver)


# --- errors -----------------------------------------------------------------------------------------------------------


class ToolError(Exception):
    pass


def failing(saver: Saver) -> Any:
    async def fail(state: Deep) -> Any:
        get_stream_writer()("about to fail")
        await MODEL.ainvoke([HumanMessage("help")])
        raise ToolError("it broke: \N{SKULL}")

    graph = StateGraph(Deep).add_node("model", answer).add_node("fail", fail).add_edge(START, "model")
    return graph.add_edge("model", "fail").compile(checkpointer=saver)


def failing_subgraph(saver: Saver) -> Any:
    async def fail(state: Deep) -> Any:
        raise KeyError("missing")

    inner = StateGraph(Deep).add_node("write", step("inner")).add_node("fail", fail)
    inner.add_edge(START, "write").add_edge("write", "fail")
    outer = StateGraph(Deep).add_node("inner", inner.compile()).add_edge(START, "inner")
    return outer.compile(checkpointer=saver)


HI: Final = {"messages": [{"type": "human", "content": "hi", "id": "human-1"}]}
MORE: Final = {"messages": [{"type": "human", "content": "and more", "id": "human-2"}]}
ADA: Final = {"person": {"name": "Ada"}}
NONE: Final[dict[str, Any]] = {"steps": []}
PAUSED: Final = ("interrupted", "success")

ZOO: Final = (
    Case("chat", chat, (HI, MORE), ends=("success", "success")),
    Case("sync_chat", sync_chat, (HI,)),
    Case("agent", agent, (HI,)),
    Case("parallel", parallel, (NONE,)),
    Case("map_reduce", map_reduce, (NONE,)),
    Case("jumps", jumps, (NONE,)),
    Case("loop", loop, (NONE,)),
    Case("nested", nested, ({**HI, "steps": []},)),
    Case("parallel_subgraphs", parallel_subgraphs, (NONE,), in_order=False),
    Case("asking_subgraph", asking_subgraph, (NONE, Command(resume="yes")), ends=PAUSED),
    Case("asking", asking, (NONE, Command(resume={"sure": True}, update={"total": 3})), ends=PAUSED),
    Case("asking_twice", asking_twice_at_once, (NONE,), ends=("interrupted",)),
    Case("interrupt_before", three_steps, (NONE, None), {"interrupt_before": ["b"]}, ends=PAUSED),
    Case("interrupt_after", three_steps, (NONE, None), {"interrupt_after": ["b"]}, ends=PAUSED),
    Case("interrupt_all", three_steps, (NONE, None), {"interrupt_after": "*"}, ends=("interrupted", "interrupted")),
    Case("compiled_to_stop", compiled_to_stop, (NONE, None, None), ends=("interrupted", "interrupted", "success")),
    Case("functional", functional, (3, 4), ends=("success", "success")),
    Case("functional_asking", functional_asking, (3, Command(resume="yes")), ends=PAUSED),
    Case("pydantic", pydantic_state, (ADA,)),
    Case("pydantic_asking", pydantic_asking, (ADA, Command(resume=7)), ends=PAUSED),
    Case("dataclass", dataclass_state, ({"name": "Ada"},)),
    Case("dataclass_asking", dataclass_asking, ({"name": "Ada"}, Command(resume="hi")), ends=PAUSED),
    Case("schemas", schemas, ({"question": "why"},)),
    Case("no_answer", no_answer, ({"question": "why"},)),
    Case("asking_with_schemas", asking_with_schemas, ({"question": "why"}, Command(resume="so")), ends=PAUSED),
    Case("root_state", root_state, ([7],)),
    Case("context", context, (NONE,), {"context": {"name": "Ada", "roles": ["admin"]}}, {"mood": "calm"}),
    Case("failing", failing, (HI,), ends=("error",), error=("ToolError", "it broke: \N{SKULL}")),
    Case("failing_subgraph", failing_subgraph, (HI,), ends=("error",), error=("KeyError", "'missing'")),
    Case(
        "failing_agent",
        failing_agent,
        (HI,),
        ends=("error",),
        error=("ValueError", "nobody counted Bern"),
    ),
)
