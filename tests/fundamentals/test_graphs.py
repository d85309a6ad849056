"""What a worker accepts as a graph, and what it says about the rest."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any, Protocol, TypedDict

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.pregel import Pregel
from langgraph_sdk.runtime import ServerRuntime

from runstream.errors import GraphLoadError
from runstream_worker.auth_user import AuthUser
from runstream_worker.factories import Access
from runstream_worker.graphs import GraphSource, Target, graph_source, load_graphs, parse_target
from runstream_worker.langgraph_json import read_langgraph_json

# A module with one graph whose single step answers with its module's `ANSWER`.
GRAPH = """
    from typing import TypedDict
    from langgraph.graph import END, START, StateGraph

    class State(TypedDict):
        answer: str

    ANSWER = "hello"

    def builder(answer=None):
        made = StateGraph(State)
        made.add_node("reply", lambda state: {"answer": answer or ANSWER})
        made.add_edge(START, "reply")
        made.add_edge("reply", END)
        return made
"""


class AnyState(TypedDict, total=False):
    answer: str


class Write(Protocol):
    def __call__(self, path: str, source: str, *, base: str = GRAPH) -> Path: ...


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test has an empty project as its current folder and leaves the interpreter as it was."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(path: str, source: str, *, base: str = GRAPH) -> Path:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(dedent(base) + dedent(source))
        return file

    return write


async def answer(source: GraphSource, config: RunnableConfig | None = None) -> str:
    async with source.open(config or {}) as graph:
        result = await graph.ainvoke({"answer": ""}, config)
    return str(result["answer"])


def problem(*targets: str, config_file: Path | None = None) -> str:
    with pytest.raises(GraphLoadError) as caught:
        load_graphs(targets, config_file=config_file)
    return str(caught.value)


class TestTargets:
    @pytest.mark.parametrize(
        ("text", "name", "location"),
        [
            ("agent:graph", None, "agent:graph"),
            ("chat=agent:graph", "chat", "agent:graph"),
            ("my-chat.v2=./a/b.py", "my-chat.v2", "./a/b.py"),
            ("./x=y/agent.py:graph", None, "./x=y/agent.py:graph"),
            ("Deep Researcher=./a/b.py", "Deep Researcher", "./a/b.py"),
            (" pkg.mod ", None, "pkg.mod"),
            ("conf/langgraph.json", None, "conf/langgraph.json"),
        ],
    )
    def test_name_and_location(self, text: str, name: str | None, location: str) -> None:
        assert parse_target(text) == Target(name, location)

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("", "names no graph"),
            ("chat=", "names no graph"),
            ("agent.py:", "'', after the last colon"),
            ("agent.py:a b", "'a b', after the last colon"),
            ("my-agent:graph", "'my-agent' is neither a module's name nor the path"),
            ("chat=langgraph.json", "names its graphs itself; leave chat= out"),
        ],
    )
    def test_what_is_no_target(self, text: str, says: str) -> None:
        with pytest.raises(GraphLoadError) as caught:
            parse_target(text)
        assert says in str(caught.value)
        assert repr(text) in str(caught.value)

    def test_the_only_target_is_called_agent(self, write: Write) -> None:
        write("bot.py", "graph = builder().compile()")
        assert list(load_graphs(["bot.py"])) == ["agent"]

    def test_several_targets_are_called_by_their_attributes(self, write: Write) -> None:
        write("bot.py", "one = builder().compile()\ntwo = builder().compile()")
        assert list(load_graphs(["bot.py:one", "bot.py:two", "chat=bot.py:two"])) == ["one", "two", "chat"]

    def test_two_graphs_of_one_name_are_refused(self, write: Write) -> None:
        write("bot.py", "graph = builder().compile()")
        write("other.py", "graph = builder().compile()")
        assert "two graphs are called 'graph': bot.py and other.py" in problem("bot.py", "other.py")

    def test_no_target_at_all(self) -> None:
        assert "no target was given" in problem()


class TestWhatIsAGraph:
    @pytest.mark.parametrize(
        "source",
        [
            "graph = builder().compile()",
            "graph = builder()",
            "def graph(): return builder().compile()",
            "def graph(): return builder()",
            "def graph(config): return builder(config['configurable']['who'])",
            "def graph(*, config): return builder(config['configurable']['who'])",
            "def graph(config, /): return builder(config['configurable']['who'])",
            "def graph(verbose=False, config=None): return builder(config['configurable']['who'])",
            "def graph(cfg=None): return builder(cfg['configurable']['who'])",
            "async def graph(): return builder().compile()",
            "async def graph(config): return builder(config['configurable']['who'])",
            "def graph(*args, **kwargs): return builder()",
        ],
    )
    async def test_graphs_and_factories(self, write: Write, source: str) -> None:
        write("bot.py", source)
        expected = "Ann" if "who" in source else "hello"
        assert await answer(load_graphs(["bot.py:graph"])["agent"], {"configurable": {"who": "Ann"}}) == expected

    @pytest.mark.parametrize("decorated", [True, False])
    @pytest.mark.parametrize("kind", ["", "async "])
    async def test_what_a_context_manager_opened_is_closed_after_the_run(
        self, write: Write, kind: str, decorated: bool
    ) -> None:
        decorator = f"@contextlib.{'async' if kind else ''}contextmanager" if decorated else ""
        write(
            "bot.py",
            f"""
            import contextlib
            log = []

            {decorator}
            {kind}def graph(config):
                log.append("opened")
                try:
                    yield builder().compile()
                finally:
                    log.append("closed")
            """,
        )
        source = load_graphs(["bot.py"])["agent"]
        async with source.open({}) as graph:
            log = sys.modules[next(name for name in sys.modules if name.startswith("runstream_graph_bot_"))].log
            assert log == ["opened"]
            assert isinstance(graph, Pregel)
        assert log == ["opened", "closed"]

    async def test_a_factory_is_called_for_every_run_and_not_before(self, write: Write) -> None:
        write(
            "bot.py",
            """
            calls = []
            def graph():
                calls.append(1)
                return builder(str(len(calls)))
            """,
        )
        source = load_graphs(["bot.py"])["agent"]
        assert [await answer(source), await answer(source)] == ["1", "2"]

    async def test_a_functional_api_entrypoint(self, write: Write) -> None:
        write(
            "bot.py",
            """
            from langgraph.func import entrypoint
            @entrypoint()
            async def flow(given: dict) -> dict:
                return {"answer": "from a function"}
            """,
        )
        assert await answer(load_graphs(["bot.py:flow"])["agent"]) == "from a function"

    @pytest.mark.parametrize(
        ("source", "says"),
        [
            ("graph = 'hello'", "is of type str"),
            ("graph = None", "is None"),
            ("graph = State", "is the class State"),
            ("import json as graph", "is the module json"),
            ("from langchain_core.runnables import RunnableLambda\ngraph = RunnableLambda(str)", "type RunnableLambda"),
            ("def graph(config, store): ...", "this one requires config, store"),
            ("graph = StateGraph(State)", "the StateGraph does not compile"),
        ],
    )
    def test_what_is_none(self, write: Write, source: str, says: str) -> None:
        write("bot.py", source + "\nspare = builder().compile()")
        message = problem("bot.py:graph")
        assert says in message
        assert "target 'bot.py:graph'" in message
        assert "graphs in it: spare" in message

    async def test_a_factory_that_makes_something_else(self, write: Write) -> None:
        write("bot.py", "def graph(): return 42")
        with pytest.raises(GraphLoadError, match=r"graph 'agent' \(bot.py:graph\): the factory .* not of type int"):
            await answer(load_graphs(["bot.py:graph"])["agent"])

    async def test_what_a_factory_raises_comes_as_it_is(self, write: Write) -> None:
        write("bot.py", "def graph(): raise LookupError('no such tenant')")
        with pytest.raises(LookupError, match="no such tenant"):
            await answer(load_graphs(["bot.py"])["agent"])


class TestWithoutAnAttribute:
    @pytest.mark.parametrize(
        "source",
        [
            "graph = builder('this')\nagent = builder()\nother = builder().compile()",
            "agent = builder('this')\nother = builder().compile()",
            "app = same = builder('this').compile()\nworkflow = builder()",
            "def agent(state): ...\napp = builder('this').compile()",
            "def agent(config): return builder('this')\napp = builder().compile()",
            "workflow = builder('this')",
        ],
    )
    async def test_the_one_that_is_meant(self, write: Write, source: str) -> None:
        write("bot.py", source)
        assert await answer(load_graphs(["bot.py"])["agent"]) == "this"

    def test_several_are_listed(self, write: Write) -> None:
        write("bot.py", "one = builder().compile()\ntwo = builder().compile()")
        assert "no graph called 'graph' or 'agent', but 2 others (one, two); say which: bot.py:ATTR" in problem(
            "bot.py"
        )

    def test_none_at_all(self, write: Write) -> None:
        write("bot.py", "")
        assert "but no other graph" in problem("bot.py")


@dataclass
class Told:
    text: str


class TestCheckpointers:
    async def opened(self, source: GraphSource, checkpointer: InMemorySaver | None) -> Any:
        async with source.open({}, checkpointer) as graph:
            return graph.checkpointer

    async def test_the_workers_replaces_the_graphs_own(self, write: Write) -> None:
        write(
            "bot.py",
            "from langgraph.checkpoint.memory import InMemorySaver\ngraph = builder().compile(InMemorySaver())",
        )
        source = load_graphs(["bot.py"])["agent"]
        mine = InMemorySaver()
        assert await self.opened(source, mine) is mine
        assert await self.opened(source, None) not in (None, mine)

    async def test_a_default_does_not_replace_the_graphs_own(self) -> None:
        own, mine = InMemorySaver(), InMemorySaver()
        for checkpointer, expected in ((own, own), (None, mine), (False, False)):
            graph = StateGraph(Told).add_node("tell", lambda _: {}).add_edge(START, "tell").compile(checkpointer)
            async with graph_source("agent", graph).open({}, mine, keep_own=True) as opened:
                assert opened.checkpointer is expected

    async def test_a_replaced_one_changes_nothing_else(self) -> None:
        graph = StateGraph(Told).add_node("tell", lambda _: {}).add_edge(START, "tell").compile(name="teller")
        config: Any = {"configurable": {"thread_id": "t"}}
        async with graph_source("agent", graph).open({}, InMemorySaver()) as opened:
            chunks = [
                chunk async for chunk in opened.astream({"text": "a"}, config, stream_mode="values", version="v2")
            ]
            assert chunks[-1]["data"] == Told(text="a")
            assert (await opened.aget_state(config)).values == {"text": "a"}
            assert opened.name == "teller"
        assert graph.checkpointer is None

    async def test_a_graph_may_decline(self, write: Write) -> None:
        write("bot.py", "graph = builder().compile(checkpointer=False)")
        assert await self.opened(load_graphs(["bot.py"])["agent"], InMemorySaver()) is False

    async def test_a_factorys_graph_gets_it_too(self, write: Write) -> None:
        write("bot.py", "def graph(): return builder()")
        mine = InMemorySaver()
        assert await self.opened(load_graphs(["bot.py"])["agent"], mine) is mine


RUNTIME = """
    import functools
    import contextlib
    from typing import TYPE_CHECKING, Annotated, Any, Optional
    import langgraph_sdk.runtime as sdk
    from langgraph_sdk.runtime import ServerRuntime as SR
    from langchain_core.runnables import RunnableConfig

    def told(config, runtime):
        return builder(f"{(config or {}).get('configurable', {}).get('who')} {runtime and runtime.access_context}")
"""


class TestServerRuntime:
    """Factories as LangGraph's server calls them."""

    @pytest.mark.parametrize(
        "source",
        [
            "def graph(runtime: SR): return told(None, runtime)",
            "def graph(runtime: sdk.ServerRuntime): return told(None, runtime)",
            "def graph(runtime: 'SR[dict]'): return told(None, runtime)",
            "def graph(runtime: 'ServerRuntime'): return told(None, runtime)",
            "def graph(runtime: 'ServerRuntime[Nowhere]'): return told(None, runtime)",
            "def graph(runtime: Annotated[SR, 'x']): return told(None, runtime)",
            "def graph(runtime: Optional[SR] = None): return told(None, runtime)",
            "def graph(runtime: SR, /): return told(None, runtime)",
            "async def graph(runtime: SR): return told(None, runtime)",
            "@contextlib.asynccontextmanager\nasync def graph(runtime: SR):\n    yield told(None, runtime)",
            "@contextlib.contextmanager\ndef graph(runtime: SR):\n    yield told(None, runtime)",
            "def make(runtime: SR, who): return told(None, runtime)\ngraph = functools.partial(make, who=1)",
            "class Make:\n    def __call__(self, runtime: SR): return told(None, runtime)\ngraph = Make()",
            "class Make:\n    def make(self, runtime: 'SR'): return told(None, runtime)\ngraph = Make().make",
        ],
    )
    async def test_it_alone(self, write: Write, source: str) -> None:
        write("bot.py", dedent(RUNTIME) + source)
        assert await answer(load_graphs(["bot.py"])["agent"]) == "None threads.create_run"

    @pytest.mark.parametrize(
        "source",
        [
            "def graph(config, runtime: SR): return told(config, runtime)",
            "def graph(runtime: SR, config: RunnableConfig): return told(config, runtime)",
            "def graph(rt: 'ServerRuntime', cfg: dict): return told(cfg, rt)",
            "def graph(config, /, runtime: SR): return told(config, runtime)",
            "def graph(config: RunnableConfig, *, runtime: SR): return told(config, runtime)",
            "async def graph(config, runtime: SR): return told(config, runtime)",
            "@contextlib.asynccontextmanager\nasync def graph(config, runtime: SR):\n    yield told(config, runtime)",
            "def make(x, config, runtime: SR): return told(config, runtime)\ngraph = functools.partial(make, 1)",
        ],
    )
    async def test_it_and_the_config(self, write: Write, source: str) -> None:
        write("bot.py", dedent(RUNTIME) + source)
        source_ = load_graphs(["bot.py:graph"])["agent"]
        assert await answer(source_, {"configurable": {"who": "Ann"}}) == "Ann threads.create_run"

    async def test_what_it_says(self) -> None:
        seen: list[Any] = []

        def make(config: RunnableConfig, runtime: ServerRuntime[dict[str, int]]) -> Any:
            seen.append((config, runtime))
            return StateGraph(AnyState).add_node("a", lambda _: None).add_edge(START, "a")

        source = graph_source("agent", make)
        user = AuthUser(identity="ann")
        config: Any = {"configurable": {"langgraph_auth_user": user}}
        async with source.open(config, access=Access(context={"n": 1})):
            pass
        for reason in ("threads.read", "threads.update", "assistants.read"):
            async with source.open({}, access=Access(reason)):
                pass
        run, *others = [runtime for _, runtime in seen]
        assert (run.access_context, run.execution_runtime.context, run.store) == ("threads.create_run", {"n": 1}, None)
        assert run.ensure_user().identity == "ann"
        assert [each.execution_runtime for each in others] == [None, None, None]
        assert [each.user for each in others] == [None, None, None]
        marks = [config["configurable"]["__is_for_execution__"] for config, _ in seen]
        assert marks == [True, False, False, False]


class TestWhatCannotBeLoaded:
    """One graph that cannot be loaded is that graph's error."""

    async def test_the_others_are_served(self, write: Write) -> None:
        write("good.py", "graph = builder()")
        write("bad.py", "import not_installed_anywhere")
        targets = ["good=good.py", "bad=bad.py:graph", "worse=nowhere.py:x", "no=good.py:gruph", "js=./a.ts:graph"]
        graphs = load_graphs(targets)
        assert list(graphs) == ["good", "bad", "worse", "no", "js"]
        assert await answer(graphs["good"]) == "hello"
        assert list(graphs.problems) == ["bad", "worse", "no", "js"]
        assert "ModuleNotFoundError" in graphs.problems["bad"]
        assert "did you mean 'graph'" in graphs.problems["no"]
        assert "JavaScript" in graphs.problems["js"]
        for name, problem in graphs.problems.items():
            with pytest.raises(GraphLoadError) as caught:
                await answer(graphs[name])
            assert str(caught.value) == problem

    def test_where_none_can_be_loaded_that_ends_the_start(self, write: Write) -> None:
        write("bad.py", "1 / 0")
        assert "ZeroDivisionError" in problem("a=bad.py:graph", "b=nowhere.py:graph")


class TestImporting:
    async def test_a_module_in_the_current_folder(self, write: Write) -> None:
        write("pkg/bots/chat.py", "graph = builder()")
        assert await answer(load_graphs(["pkg.bots.chat:graph"])["agent"]) == "hello"

    async def test_a_file_imports_what_lies_beside_it(self, write: Write) -> None:
        write("bots/my_tools.py", "NAME = 'a tool'", base="")
        write("bots/chat.py", "from my_tools import NAME\ngraph = builder(NAME)")
        assert await answer(load_graphs(["bots/chat.py"])["agent"]) == "a tool"

    async def test_a_file_of_a_package_imports_relatively(self, write: Write) -> None:
        write("src/bots/__init__.py", "", base="")
        write("src/bots/my_tools.py", "NAME = 'a tool'", base="")
        write("src/bots/chat.py", "from .my_tools import NAME\nfrom bots.my_tools import NAME as N\ngraph = builder(N)")
        assert await answer(load_graphs(["src/bots/chat.py"])["agent"]) == "a tool"

    async def test_files_of_one_stem_do_not_meet(self, write: Write) -> None:
        write("a/agent.py", "graph = builder('a')")
        write("b/agent.py", "graph = builder('b')")
        graphs = load_graphs(["x=a/agent.py", "y=b/agent.py"])
        assert [await answer(source) for source in graphs.values()] == ["a", "b"]

    def test_packages_of_one_name_are_refused(self, write: Write) -> None:
        for folder in "a", "b":
            write(f"{folder}/bots/__init__.py", "", base="")
            write(f"{folder}/bots/chat.py", "graph = builder()")
        message = problem("x=a/bots/chat.py", "y=b/bots/chat.py")
        assert "b/bots/chat.py belongs to package 'bots', but that name is taken by" in message

    def test_a_sibling_that_another_folder_has_taken_is_refused(self, write: Write) -> None:
        """Python would hand the first folder's module to the second, silently."""
        for folder in "a", "b":
            write(f"{folder}/my_tools.py", "", base="")
            write(f"{folder}/{folder}.py", "import my_tools\ngraph = builder()")
        message = problem("x=a/a.py", "y=b/b.py")
        assert "target 'y=b/b.py': imports 'my_tools', which is" in message
        assert "has that name already; rename one" in message

    def test_a_file_runs_once_however_many_targets_name_it(self, write: Write, tmp_path: Path) -> None:
        write("bot.py", "with open('runs', 'a') as runs: runs.write('x')\none = builder()\ntwo = builder()", base=GRAPH)
        load_graphs(["bot.py:one", "./bot.py:two"])
        load_graphs([f"{tmp_path}/bot.py:two"])
        assert (tmp_path / "runs").read_text() == "x"

    async def test_annotations_resolve_in_a_loaded_file(self, write: Write) -> None:
        write(
            "my-bot.py",
            """
            import dataclasses, typing
            from pydantic import BaseModel

            class Inner(BaseModel):
                text: str

            class Outer(BaseModel):
                inner: Inner

            @dataclasses.dataclass
            class Settings:
                kind: typing.ClassVar[str] = "x"

            assert typing.get_type_hints(Outer)["inner"] is Inner
            assert dataclasses.fields(Settings) == ()
            graph = builder(Outer(inner={"text": "typed"}).inner.text)
            """,
            base="from __future__ import annotations\n" + dedent(GRAPH),
        )
        assert await answer(load_graphs(["my-bot.py"])["agent"]) == "typed"

    def test_what_is_not_there(self, write: Write) -> None:
        write("pkg/chat.py", "graph = builder()")
        write("notes.txt", "")
        assert "there is no module 'nowhere'" in problem("nowhere:graph")
        assert "there is no module 'pkg.chatt'" in problem("pkg.chatt:graph")
        assert "there is no file " in problem("pkg/nowhere.py")
        assert "is not a .py file" in problem("./notes.txt:graph")
        assert "pkg.chat has no attribute 'grap'; did you mean 'graph'?; graphs in it: graph" in problem(
            "pkg.chat:grap"
        )

    @pytest.mark.parametrize("target", ["bot.py:graph", "bot:graph"])
    @pytest.mark.parametrize(
        ("source", "says"),
        [
            ("import nowhere", "ModuleNotFoundError: No module named 'nowhere'"),
            ("from json import nowhere", "ImportError: cannot import name 'nowhere'"),
            ("{}['MY_KEY']", "KeyError: 'MY_KEY'"),
            ("import json; json.loads('')", "JSONDecodeError: Expecting value"),
            ("raise SystemExit(3)", "SystemExit: 3"),
            ("def (", "SyntaxError: invalid syntax"),
        ],
    )
    def test_what_the_users_own_code_raises(
        self, write: Write, tmp_path: Path, target: str, source: str, says: str
    ) -> None:
        write("bot.py", f"\n{source}", base="")
        message = problem(target)
        assert message.startswith(f"target '{target}': importing ")
        assert says in message
        assert f"({tmp_path}/bot.py:2)" in message

    def test_a_file_that_failed_leaves_nothing_behind(self, write: Write) -> None:
        write("bot.py", "raise ValueError('first')")
        assert "first" in problem("bot.py:graph")
        write("bot.py", "graph = builder()")
        assert list(load_graphs(["bot.py:graph"])) == ["agent"]


class TestLanggraphJson:
    async def test_all_its_graphs(self, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SET_BY_BOTH", "the shell")
        monkeypatch.setenv("RUNSTREAM_SET_BY_BOTH", "the shell")
        monkeypatch.setenv("SET_BY_FILE", "")
        monkeypatch.delenv("SET_BY_FILE")
        write("app/lib/helper.py", "NAME = 'helped'", base="")
        write("app/bots/chat.py", "import helper, os\ngraph = builder(helper.NAME + os.environ['SET_BY_FILE'])")
        write("app/bots/other.py", "def make(config): return builder('made')")
        write(
            "app/langgraph.json",
            """{
              "$schema": "https://langgra.ph/schema.json",
              "graphs": {
                "chat": "./bots/chat.py:graph",
                "other": {"path": "bots.other:make", "description": "makes things"}
              },
              "dependencies": [".", "./lib", "langgraph>=1"],
              "env": {"SET_BY_FILE": "!", "SET_BY_BOTH": "the file", "RUNSTREAM_SET_BY_BOTH": "the file"}
            }""",
            base="",
        )
        graphs = load_graphs(["app/langgraph.json"])
        assert [await answer(source) for source in graphs.values()] == ["helped!", "made"]
        assert {name: source.description for name, source in graphs.items()} == {"chat": None, "other": "makes things"}
        assert graphs.warnings == ()
        assert os.environ["SET_BY_BOTH"] == "the file"
        assert os.environ["RUNSTREAM_SET_BY_BOTH"] == "the shell"
        monkeypatch.delenv("SET_BY_FILE")

    def test_beside_other_targets(self, write: Write, tmp_path: Path) -> None:
        write("bot.py", "graph = builder()")
        config = write("graphs.conf", '{"graphs": {"chat": "./bot.py:graph"}}', base="")
        assert list(load_graphs(["bot.py"], config_file=config)) == ["chat", "graph"]
        assert "two graphs are called 'chat'" in problem("chat=bot.py", config_file=config)

    def test_keys_without_effect_are_named(self, write: Write) -> None:
        path = write(
            "langgraph.json",
            """{"graphs": {"a": {"path": "b.py:c", "tags": []}}, "store": {}, "python_version": "3.12", "grahps": {},
                "dependencies": ["surely-not-installed"]}""",
            base="",
        )
        warnings = "\n".join(read_langgraph_json(path).warnings)
        assert "'store' has no effect: runstream has no such thing" in warnings
        # What an image is built from would hide what matters.
        assert "python_version" not in warnings
        assert "'grahps' is unknown and has no effect; did you mean 'graphs'?" in warnings
        assert "'graphs.a.tags' is unknown" in warnings
        assert "'dependencies[0]' 'surely-not-installed' is not installed" in warnings
        assert warnings.count(str(path)) == 4

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("{", ":1:2: not JSON"),
            ("[]", "must be an object such as"),
            ("{}", "'graphs' is missing; it must be an object"),
            ('{"graphs": []}', "'graphs' is an empty list"),
            ('{"graphs": {"a": 1}}', "'graphs.a' must be"),
            ('{"graphs": {"a": {"description": "x"}}}', "'graphs.a' must be"),
            ('{"graphs": {"a": {"path": "b.py:c", "description": 1}}}', "'graphs.a.description' must be a string"),
            ('{"graphs": {"a": "b.py:c", "a": "d.py:e"}}', "'a' is there twice"),
            ('{"graphs": {"a": "./b.ts:c"}}', "is a JavaScript or TypeScript graph"),
            ('{"graphs": {"a": "b.py:c"}, "dependencies": "."}', "'dependencies' must be a list"),
            ('{"graphs": {"a": "b.py:c"}, "dependencies": ["./no"]}', "'dependencies[0]' './no' is not a folder"),
            ('{"graphs": {"a": "b.py:c"}, "env": {"PORT": 80}}', "'env.PORT' must be a string (write \"80\")"),
            ('{"graphs": {"a": "b.py:c"}, "env": "."}', "'env' '.' is a folder, not an env file"),
            ('{"graphs": {"": "b.py:c"}}', "'graphs' has an entry whose name no graph can have: graph: '' must be"),
            ('{"graphs": {"' + "é" * 128 + '": "b.py:c"}}', "(256 bytes) must be a graph's name: 1 to 255 bytes"),
            ('{"graphs": {"a": "b.py:c"}, "env": []}', "'env' must be an object of strings"),
        ],
    )
    def test_mistakes(self, write: Write, text: str, says: str) -> None:
        path = write("langgraph.json", text, base="")
        message = problem("langgraph.json")
        assert message.startswith(str(path))
        assert says in message

    def test_a_graph_of_it_that_does_not_load(self, write: Write) -> None:
        write("langgraph.json", '{"graphs": {"chat": "./nowhere.py:graph"}}', base="")
        assert "langgraph.json: graphs.chat ('./nowhere.py:graph'): there is no file" in problem("langgraph.json")

    def test_an_env_file(self, write: Write) -> None:
        write(
            ".env",
            r"""
            # a comment
            PLAIN=one two  # and why
            export EXPORTED = yes
            HASH=a#b
            EMPTY=
            IS='it is'
            SINGLE='as ${IS} \n' # quoted
            DOUBLE="two\nlines # \"in\""
            """,
            base="",
        )
        path = write("langgraph.json", '{"graphs": {"a": "b.py:c"}, "env": "./.env"}', base="")
        assert read_langgraph_json(path).env == {
            "PLAIN": "one two",
            "EXPORTED": "yes",
            "HASH": "a#b",
            "EMPTY": "",
            "IS": "it is",
            "SINGLE": r"as it is \n",
            "DOUBLE": 'two\nlines # "in"',
        }

    def test_an_env_file_in_python_dotenvs_dialect(self, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OF_SHELL", "sh")
        monkeypatch.setenv("OF_BOTH", "shell")
        monkeypatch.setenv("ALONE", "shell")
        lines = [
            "OF_BOTH=file",
            "A=${OF_SHELL} ${OF_BOTH} ${NOWHERE:-else}",
            'B="one',
            'two"',
            "ALONE",
            "no value = ! x",
        ]
        write(".env", "\n".join(lines), base="")
        write("b.py", "c = builder()")
        path = write("langgraph.json", '{"graphs": {"a": "b.py:c"}, "env": ".env"}', base="")
        loaded = load_graphs([], config_file=path)
        assert os.environ["A"] == "sh file else"
        assert os.environ["B"] == "one\ntwo"
        assert "ALONE" not in os.environ
        assert [one.partition(": ")[2] for one in loaded.warnings] == [
            f"'env' leaves out what is not NAME=value: {path.parent / '.env'}:6"
        ]
        for name in ("A", "B"):
            monkeypatch.delenv(name)

    def test_an_env_file_that_is_missing_is_a_warning(self, write: Write) -> None:
        write("b.py", "c = builder()")
        path = write("langgraph.json", '{"graphs": {"a": "b.py:c"}, "env": ".env"}', base="")
        loaded = load_graphs([], config_file=path)
        assert list(loaded) == ["a"]
        assert loaded.warnings == (f"{path}: 'env' has no effect: there is no file {path.parent / '.env'}",)


class TestGivenInCode:
    async def test_a_graph_that_is_at_hand(self) -> None:
        class State(TypedDict):
            answer: str

        builder = StateGraph(State)
        builder.add_node("reply", lambda _: {"answer": "at hand"})
        builder.add_edge(START, "reply")
        builder.add_edge("reply", END)
        assert await answer(graph_source("chat", builder)) == "at hand"

    def test_anything_else(self) -> None:
        with pytest.raises(GraphLoadError, match=r"graph 'chat' \(given in code\): must be a compiled graph"):
            graph_source("chat", object())
