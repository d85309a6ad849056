"""The graphs that the examples run; `langgraph.json` names them.

A worker for all of them:

    runstream worker --config examples/langgraph.json
"""

from __future__ import annotations

import os
from typing import TypedDict

from langchain_core.messages import AIMessage
from langgraph.config import get_stream_writer
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import interrupt

from runstream_worker.default_agent import chat_model

# ChatOpenAI where OPENAI_API_KEY is set, else a stand-in that needs no network. In your own code: any LangChain model.
model = chat_model(os.environ)


# --- chat: a model and its conversation -------------------------------------------------------------------------------


async def answer(state: MessagesState) -> dict[str, list[AIMessage]]:
    """Let the model answer."""
    return {"messages": [await model.ainvoke(state["messages"])]}


chat = StateGraph(MessagesState).add_node(answer).add_edge(START, "answer").compile()


# --- research: two nodes that both talk, and progress in words of its own ---------------------------------------------


class Research(TypedDict, total=False):
    """A topic, and what came of it."""

    topic: str
    outline: str
    report: str


async def plan(state: Research) -> Research:
    """Make an outline. Its tokens are streamed like any others; most readers will not want to see them."""
    get_stream_writer()({"progress": f"planning {state['topic']}"})
    return {"outline": (await model.ainvoke(f"Outline a short report on {state['topic']}.")).text}


async def write(state: Research) -> Research:
    """Write the report."""
    get_stream_writer()({"progress": f"writing about {state['topic']}"})
    return {"report": (await model.ainvoke(f"Write the report: {state['outline']}")).text}


research = (
    StateGraph(Research).add_node(plan).add_node(write).add_edge(START, "plan").add_edge("plan", "write").compile()
)


# --- approval: stops until a person has decided -----------------------------------------------------------------------


class Refund(TypedDict, total=False):
    """A refund, and what was decided."""

    customer: str
    amount: int
    outcome: str


def review(state: Refund) -> Refund:
    """Ask a person.

    When the thread is resumed the node runs again from its top, and `interrupt` returns the answer this time: do
    nothing before it that must not happen twice.
    """
    approved = interrupt({"question": f"Refund {state['amount']} EUR to {state['customer']}?"})
    return {"outcome": "refunded" if approved else "refused"}


approval = StateGraph(Refund).add_node(review).add_edge(START, "review").compile()
