"""Graphs to be disturbed: of every kind that LangGraph knows, streaming slowly, and different at every execution.

What a node of the outermost graph does leaves its mark in `log`, once; what is further inside leaves it in a message.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, TypedDict

from langchain.agents import create_agent
from langchain_core.messages import AnyMessage
from langchain_core.tools import tool
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, StateGraph, add_messages
from langgraph.types import Send, interrupt
from tests.chaos.model import Speaker
from tests.support.oracle.marks import Mark

_CUSTOMS = 2


class Inner(TypedDict):
    """The state of a subgraph."""

    messages: Annotated[list[AnyMessage], add_messages]


class Outer(Inner, total=False):
    """The state of a graph."""

    log: Annotated[list[str], operator.add]
    topic: dict[str, str]


def speaking(name: str, *, talkative: float = 1.0, inside: bool = False, opens: bool = False) -> Any:
    """A node that emits an event, has a model speak, and emits another event.

    Args:
        name: of the node.
        talkative: how much more than others it says.
        inside: whether it is a subgraph's; such a state has no `log`.
        opens: whether it writes what no later node writes again.
    """
    model = Speaker(talkative=talkative)

    async def speak(state: Inner) -> dict[str, Any]:
        mark = Mark.new(name, _CUSTOMS, inside=inside)
        write = get_stream_writer()
        write(mark.custom(0))
        reply = await model.ainvoke(state["messages"], mark=str(mark))
        write(mark.custom(1))
        topic = {"topic": {"opened by": str(mark)}} if opens else {}
        return {"messages": [reply], **topic, **({} if inside else {"log": [str(mark)]})}

    return speak


def _sequence(*names: str, inside: bool = False) -> StateGraph[Any]:
    graph: StateGraph[Any] = StateGraph(Inner if inside else Outer)
    nodes = [(name, speaking(name, inside=inside, opens=name == names[0] and not inside)) for name in names]
    return graph.add_sequence(nodes).add_edge(START, names[0])


def chain() -> Any:
    """Three models, one after the other."""
    return _sequence("first", "second", "third").compile()


@tool
async def look_up(word: str) -> str:
    """Look a word up."""
    mark = Mark.new("look_up", _CUSTOMS)
    write = get_stream_writer()
    write(mark.custom(0))
    found = await Speaker(talkative=0.5).ainvoke(word, config={"tags": ["nostream"]}, mark=str(mark))
    write(mark.custom(1))
    return found.text


def agent() -> Any:
    """LangChain's agent: two rounds of tools, of which the first has two at once, and an answer."""
    return create_agent(Speaker(calls=[["look_up", "look_up"], ["look_up"]]), [look_up])


def branches() -> Any:
    """Two branches at once, of which one takes longer, and what joins them."""
    graph = StateGraph(Outer).add_node("fast", speaking("fast", talkative=0.5))
    graph.add_node("slow", speaking("slow", talkative=2)).add_node("join", speaking("join"))
    graph.add_edge(START, "fast").add_edge(START, "slow").add_edge(["fast", "slow"], "join")
    return graph.compile()


def map_reduce() -> Any:
    """A plan, four tasks by `Send`, each longer than the one before, and a sum."""

    def scatter(state: Outer) -> list[Send]:
        return [Send(f"work{size}", {"messages": state["messages"][-1:]}) for size in range(1, 5)]

    graph = StateGraph(Outer).add_node("plan", speaking("plan")).add_node("reduce", speaking("reduce"))
    names = [f"work{size}" for size in range(1, 5)]
    for size, name in enumerate(names, 1):
        graph.add_node(name, speaking(name, talkative=0.5 * size)).add_edge(name, "reduce")
    return graph.add_edge(START, "plan").add_conditional_edges("plan", scatter, names).compile()


def nested() -> Any:
    """A subgraph in a subgraph, as nodes; and a graph that a node calls."""
    inner = _sequence("inner1", "inner2", inside=True).compile()
    middle = StateGraph(Inner).add_node("before", speaking("before", inside=True)).add_node("inner", inner)
    middle.add_sequence([("after", speaking("after", inside=True))])
    middle.add_edge(START, "before").add_edge("before", "inner").add_edge("inner", "after")
    called = _sequence("called1", "called2", inside=True).compile()

    async def calling(state: Outer) -> dict[str, Any]:
        mark = Mark.new("calling")
        said = await called.ainvoke({"messages": state["messages"]})
        return {"messages": said["messages"][len(state["messages"]) :], "log": [str(mark)]}

    graph = StateGraph(Outer).add_node("intro", speaking("intro")).add_node("middle", middle.compile())
    graph.add_node("calling", calling).add_node("outro", speaking("outro"))
    graph.add_edge(START, "intro").add_edge("intro", "middle").add_edge("middle", "calling")
    return graph.add_edge("calling", "outro").compile()


def twins() -> Any:
    """Two subgraphs at once, of two steps each; the one is long done when the other still speaks."""
    graph = StateGraph(Outer).add_node("join", speaking("join"))
    for name, talkative in (("short", 0.5), ("long", 2.0)):
        inner = StateGraph(Inner)
        steps = [(f"{name}{n}", speaking(f"{name}{n}", talkative=talkative, inside=True)) for n in (1, 2)]
        inner.add_sequence(steps).add_edge(START, f"{name}1")
        graph.add_node(name, inner.compile()).add_edge(START, name)
    return graph.add_edge(["short", "long"], "join").compile()


def _ask(name: str) -> Any:
    async def ask(state: Outer) -> dict[str, Any]:
        answer = interrupt({"question": name})
        return {"log": [str(Mark.new(name)), f"answer: {answer}"]}

    return ask


def asking() -> Any:
    """A question beside a branch that speaks on, between two models; it takes a second run to answer it."""
    graph = StateGraph(Outer).add_node("before", speaking("before")).add_node("ask", _ask("ask"))
    graph.add_node("beside", speaking("beside")).add_node("after", speaking("after"))
    graph.add_edge(START, "before").add_edge("before", "ask").add_edge("before", "beside")
    return graph.add_edge(["ask", "beside"], "after").add_edge("after", END).compile()


def asking_inside() -> Any:
    """A question in a subgraph, behind a model that has spoken in it."""

    async def ask(state: Inner) -> dict[str, Any]:
        interrupt({"question": "inside"})
        return {}

    inner = StateGraph(Inner).add_node("within", speaking("within", inside=True)).add_node("ask", ask)
    inner.add_node("answered", speaking("answered", inside=True))
    inner.add_edge(START, "within").add_edge("within", "ask").add_edge("ask", "answered")
    graph = StateGraph(Outer).add_node("before", speaking("before")).add_node("inner", inner.compile())
    graph.add_node("after", speaking("after")).add_edge(START, "before").add_edge("before", "inner")
    return graph.add_edge("inner", "after").compile()


FAMILIES: Final[Mapping[str, Callable[[], Any]]] = {
    "chain": chain,
    "agent": agent,
    "branches": branches,
    "map_reduce": map_reduce,
    "nested": nested,
    "twins": twins,
    "asking": asking,
    "asking_inside": asking_inside,
}
"""The graphs by name. Those that ask need a run with `Command(resume=...)` after one that ends as `interrupted`."""
ASKING: Final = frozenset({"asking", "asking_inside"})
ALONE: Final = frozenset({"chain"})
"""The graphs that never run two tasks at once."""
