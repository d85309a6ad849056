"""Factories of graphs: what each takes, and what LangGraph's server would give it.

A factory takes nothing, the run's config, LangGraph's `ServerRuntime`, or both of these in any order. Its annotations
say which parameter is which, as on LangGraph's server; they may be strings, and names under `TYPE_CHECKING`.
"""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import Parameter, isfunction, ismethod, signature
from typing import Annotated, Any, Final, TypeAlias, get_args, get_origin, get_type_hints

from langchain_core.runnables import Runnable, RunnableConfig
from langgraph_sdk.runtime import (
    AccessContext,
    ServerRuntime,
    _ExecutionRuntime,  # the SDK has no public way to make one
    _ReadRuntime,
)

from runstream.errors import GraphLoadError
from runstream_worker.auth_user import AUTH_USER

EXECUTION: Final[AccessContext] = "threads.create_run"
_RUNTIMES: Final = (_ExecutionRuntime, _ReadRuntime)
_FOR_EXECUTION: Final = "__is_for_execution__"
_KNOWN_NAMES: Final[Mapping[str, Any]] = {"ServerRuntime": ServerRuntime, "RunnableConfig": RunnableConfig}
_RUNTIME_TEXT: Final = re.compile(r"\bServerRuntime\b")

Runtime: TypeAlias = _ExecutionRuntime[Any] | _ReadRuntime[Any]


@dataclass(frozen=True)
class Access:
    """Why a graph is opened, by LangGraph's names, and with which context.

    Attributes:
        reason: `threads.create_run` to execute it, `threads.update` to write its state, `threads.read` to read its
            state, `assistants.read` to look at the graph itself.
        context: the run's context; given to factories where the graph is executed.
    """

    reason: AccessContext = EXECUTION
    context: Any = None


@dataclass(frozen=True)
class Factory:
    """A function that makes a graph, with the names of the parameters that it is given.

    Attributes:
        function: the function.
        config: the parameter for the config; None where it takes none.
        runtimes: the parameters for LangGraph's `ServerRuntime`.
        positional: its parameters that can be passed by position only, in order.
    """

    function: Callable[..., object]
    config: str | None = None
    runtimes: tuple[str, ...] = ()
    positional: tuple[str, ...] = ()

    @classmethod
    def of(cls, function: Any) -> Factory:
        """Find out what a factory takes.

        Raises:
            GraphLoadError: it requires something else than a config and a runtime.
        """
        if isinstance(function, cls):
            return function
        parameters = parameters_of(function)
        runtimes = tuple(name for name, is_runtime in runtime_parameters(function, parameters).items() if is_runtime)
        others = [each for each in parameters if each.name not in runtimes and each.name not in _bound(function)]
        required = [each for each in others if each.default is Parameter.empty]
        if len(required) > 1:
            wants = ", ".join(parameter.name for parameter in required)
            raise GraphLoadError(f"a factory takes the config, a ServerRuntime or both, but this one requires {wants}")
        wanted = required or [each for each in others if each.name == "config" or len(others) == 1]
        given = {*runtimes, *(each.name for each in wanted)}
        positional = [each.name for each in parameters if each.kind is Parameter.POSITIONAL_ONLY and each.name in given]
        return cls(function, wanted[0].name if wanted else None, runtimes, tuple(positional))

    def __call__(self, config: RunnableConfig, access: Access | None = None) -> object:
        """Call the function with what it takes."""
        access = access or Access()
        given: dict[str, object] = {}
        if self.config is not None:
            given[self.config] = _marked(config, access)
        if self.runtimes:
            given |= dict.fromkeys(self.runtimes, server_runtime(config, access))
        by_position = [given.pop(name) for name in self.positional]
        return self.function(*by_position, **given)


def server_runtime(config: RunnableConfig, access: Access) -> Runtime:
    """Make LangGraph's `ServerRuntime`: why the graph is opened, for whom, and with which context.

    Its `store` is None: there is none.
    """
    user = config.get("configurable", {}).get(AUTH_USER)
    store: Any = None
    if access.reason == EXECUTION:
        context = {} if access.context is None else copy.copy(access.context)
        return _ExecutionRuntime(access_context=access.reason, user=user, store=store, context=context)
    return _ReadRuntime(access_context=access.reason, user=user, store=store)


def is_function(value: object) -> bool:
    """Tell whether a value can be a factory: anything that can be called, but no class and no runnable."""
    return callable(value) and not isinstance(value, type | Runnable)


def takes_only_what_is_given(function: Any) -> bool:
    """Tell whether a function that nobody named is a factory: it takes nothing, `config`, or a `ServerRuntime`.

    `def agent(state)` is a node, most likely.
    """
    parameters = parameters_of(function)
    is_runtime = runtime_parameters(function, parameters)
    required = [each.name for each in parameters if each.default is Parameter.empty and not is_runtime[each.name]]
    return required in ([], ["config"])


def parameters_of(function: Any) -> list[Parameter]:
    """Return a function's parameters without `*args` and `**kwargs`.

    Raises:
        GraphLoadError: it has no signature.
    """
    try:
        parameters = signature(function).parameters.values()
    except (TypeError, ValueError) as error:
        raise GraphLoadError(f"cannot tell what the factory takes: {error}") from error
    return [each for each in parameters if each.kind not in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)]


def runtime_parameters(function: Any, parameters: list[Parameter]) -> dict[str, bool]:
    """Tell of each parameter whether it is annotated as a `ServerRuntime`."""
    hints = _hints(function)
    return {each.name: _is_runtime(hints.get(each.name, each.annotation)) for each in parameters}


def _hints(function: Any) -> Mapping[str, Any]:
    """A function's annotations, resolved; those of all parameters as they stand where one of them cannot be."""
    while isinstance(function, functools.partial):
        function = function.func
    if not isfunction(function) and not ismethod(function):
        function = getattr(type(function), "__call__", function)  # noqa: B004 - the method, not whether there is one
    try:
        return get_type_hints(function, localns=dict(_KNOWN_NAMES), include_extras=True)
    except Exception:  # noqa: BLE001 - users' annotations, which are evaluated
        return {}


def _is_runtime(annotation: Any) -> bool:
    if isinstance(annotation, str):
        return _RUNTIME_TEXT.search(annotation) is not None
    if annotation is ServerRuntime or get_origin(annotation) is ServerRuntime:
        return True
    if isinstance(annotation, type):
        return issubclass(annotation, _RUNTIMES)
    if get_origin(annotation) is Annotated:
        return _is_runtime(get_args(annotation)[0])
    return any(map(_is_runtime, get_args(annotation)))


def _bound(function: Any) -> set[str]:
    """The parameters that a `functools.partial` has given values already."""
    names: set[str] = set()
    while isinstance(function, functools.partial):
        names |= function.keywords.keys()
        function = function.func
    return names


def _marked(config: RunnableConfig, access: Access) -> RunnableConfig:
    """The config as LangGraph's server gives it to a factory."""
    configurable = {**config.get("configurable", {}), _FOR_EXECUTION: access.reason == EXECUTION}
    return {**config, "configurable": configurable}
