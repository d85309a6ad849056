"""The agent that a worker runs when it is given none: a chat model with a clock and a calculator.

The environment says which model. Any server that speaks OpenAI's chat completions will do:

    OPENAI_API_KEY     without it the offline model answers (see `offline_model`)
    OPENAI_BASE_URL    OpenAI's own by default
    RUNSTREAM_MODEL    `gpt-5.4-mini` by default

A variable that is empty counts as not set, because compose files pass on what is not there as an empty string.
"""

from __future__ import annotations

import ast
import operator
import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.graph.state import CompiledStateGraph
from pydantic import SecretStr

from runstream_worker.offline_model import CALCULATOR_TOOL, TIME_TOOL, OfflineChatModel

# The newest small model that takes tools over chat completions as it is: the 5.6 family refuses them there unless
# reasoning is turned off, and for gpt-6 langchain-openai turns to the Responses API, which few other servers speak.
DEFAULT_MODEL = "gpt-5.4-mini"

_OPENAI = "https://api.openai.com/v1"
_PROMPT = "You are a helpful assistant. Use the tools for the time and for arithmetic. Be brief."


def default_agent(model: BaseChatModel | None = None) -> CompiledStateGraph[Any, Any, Any, Any]:
    """An agent called `agent`, on this model or that which the environment names; its nodes are `model` and `tools`."""
    model = model or chat_model(os.environ)
    return create_agent(model, [current_time, calculate], system_prompt=_PROMPT, name="agent")


def chat_model(environ: Mapping[str, str]) -> BaseChatModel:
    """The chat model that the variables name: OpenAI's or a compatible one, or the offline model without a key."""
    api_key = environ.get("OPENAI_API_KEY")
    if not api_key:
        return OfflineChatModel()
    base_url = environ.get("OPENAI_BASE_URL")
    return ChatOpenAI(
        model=environ.get("RUNSTREAM_MODEL") or DEFAULT_MODEL,
        api_key=SecretStr(api_key),
        base_url=base_url or _OPENAI,
        stream_usage=not base_url,  # not every compatible server knows the option that asks for it
    )


@tool(TIME_TOOL)
def current_time() -> str:
    """The current date and time in UTC, in ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@tool(CALCULATOR_TOOL)
def calculate(expression: str) -> str:
    """The value of an arithmetic expression: numbers, + - * / // % ** and parentheses."""
    try:
        value = _value(_parsed(expression))
    except (ArithmeticError, ValueError) as error:
        return f"cannot calculate {expression!r}: {error}"
    return f"{expression} = {value}"


_Number = int | float
_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}
# A model must not be able to keep a worker busy: the text, every exponent and every intermediate value are bounded.
_MAX_TEXT = 200
_MAX_EXPONENT = 1_000
_MAX_VALUE = 10**100


def _parsed(expression: str) -> ast.expr:
    if len(expression) > _MAX_TEXT:
        raise ValueError(f"longer than {_MAX_TEXT} characters")
    try:
        return ast.parse(expression.strip(), mode="eval").body
    except SyntaxError as error:
        raise ValueError("not an arithmetic expression") from error


def _value(node: ast.expr) -> _Number:
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return _bounded(value)
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
            return _bounded(_UNARY[type(op)](_value(operand)))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            operands = _value(left), _value(right)
            if isinstance(op, ast.Pow) and abs(operands[1]) > _MAX_EXPONENT:
                raise ValueError(f"an exponent beyond {_MAX_EXPONENT}")
            return _bounded(_BINARY[type(op)](*operands))
        case _:
            raise ValueError(f"{ast.unparse(node)!r} is not arithmetic")


def _bounded(value: object) -> _Number:
    if not isinstance(value, int | float):
        raise ValueError("not a real number")  # noqa: TRY004 - (-1) ** 0.5 is a wrong value, not a wrong type
    if not abs(value) <= _MAX_VALUE:  # so written that nan is refused, too
        raise ValueError("the number is too large")
    return value
