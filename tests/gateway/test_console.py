"""The console in a real browser, with real workers; `RUNSTREAM_PICTURES=docs/images` has it take those of the docs."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from playwright.async_api import Browser, Page, async_playwright, expect
from tests.support.processes import Processes, Running, RunningWorker
from tests.support.waiting import until

_CHROMIUM: Final = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_PICTURES: Final = os.environ.get("RUNSTREAM_PICTURES")
_PATIENCE_MS: Final = 30_000
_QUESTION: Final = "What time is it, and what is 6 * 7? Answer at length."
_MARKUP: Final = "<img src=x onerror=alert(1)><b>bold</b>"

pytestmark = [
    pytest.mark.skipif(_CHROMIUM is None, reason="no Chromium on PATH"),
    pytest.mark.real_redis,
]

AGENTS: Final = """
import asyncio
from pathlib import Path

from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.messages import AIMessage
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import interrupt

from runstream_worker.default_agent import calculate, default_agent
from runstream_worker.offline_model import OfflineChatModel



class HeldModel(OfflineChatModel):
    # Says a dozen words, and the others when there is a file `go`.

    async def _astream(self, *args, **kwargs):
        words = 0
        async for chunk in super()._astream(*args, **kwargs):
            yield chunk
            words += bool(chunk.message.content)
            while words == 12 and not Path("go").exists():
                await asyncio.sleep(0.02)


agent = default_agent(HeldModel(token_delay=0.02))
careful = create_agent(
    OfflineChatModel(token_delay=0),
    [calculate],
    middleware=[HumanInTheLoopMiddleware(interrupt_on={"calculate": True})],
    name="careful",
)


def ask(state: MessagesState):
    answer = interrupt({"question": "May I send it?", "to": "alice@example.org"})
    return {"messages": [AIMessage(f"You said: {answer}")]}


def fail(state: MessagesState):
    raise ValueError("the mailbox is full")


mailer = StateGraph(MessagesState).add_node(ask).add_edge(START, "ask").compile(name="mailer")
broken = StateGraph(MessagesState).add_node(fail).add_edge(START, "fail").compile(name="broken")
"""
_GRAPHS: Final = tuple(f"{name}=agents.py:{name}" for name in ("agent", "careful", "mailer", "broken"))


@dataclass
class Console:
    """A gateway with a worker, and a browser that shows its page."""

    processes: Processes
    browser: Browser
    gateway: Running
    workers: list[RunningWorker]
    url: str
    problems: list[str]

    async def open(self, view: str = "chat", *, url: str | None = None, **options: Any) -> Page:
        """The page in a window of its own, of this gateway or the one at `url`."""
        base = url or self.url
        context = await self.browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        context.set_default_timeout(_PATIENCE_MS)
        page = await context.new_page()
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("console", self._note)
        page.on("request", lambda request: self._check_place(request.url, base))
        await page.goto(f"{base}/#/{view}")
        return page

    def _note(self, message: Any) -> None:
        # That a request failed is the browser's to tell, and the tests' to provoke.
        if message.type in ("error", "warning") and not message.text.startswith("Failed to load resource"):
            self.problems.append(message.text)

    def _check_place(self, url: str, base: str) -> None:
        if not url.startswith(f"{base}/"):
            self.problems.append(f"asked somebody else than {base}: {url}")

    async def get(self, path: str) -> Any:
        async with httpx.AsyncClient(base_url=self.url) as http:
            return (await http.get(path)).raise_for_status().json()

    def hold(self) -> None:
        """Have the agent stop in the middle of what it says, until `go`."""
        (self.processes.folder / "go").unlink()

    def go(self) -> None:
        self.processes.write("go", "")

    async def newest(self) -> dict[str, Any]:
        runs = await self.get("/console/runs?limit=1")
        run: dict[str, Any] = runs[0]
        return run

    async def saved_answer(self, thread_id: str) -> str:
        """What the assistant has said last, according to the thread's state."""
        state = await self.get(f"/threads/{thread_id}/state")
        last = state["values"]["messages"][-1]
        assert last["type"] == "ai"
        content: str = last["content"]
        return content

    async def kill_the_worker(self, worker_id: str) -> None:
        """`kill -9` the worker that has this id."""
        (worker,) = (one for one in self.workers if one.worker_id == worker_id)
        worker.command.kill()
        await worker.command.ended()


@pytest.fixture
async def console(redis_url: str, namespace: str, tmp_path: Path) -> AsyncIterator[Console]:
    async with Processes(redis_url, namespace, tmp_path) as processes, async_playwright() as playwright:
        processes.write("agents.py", AGENTS)
        processes.write("go", "")
        gateway = await processes.start("gateway", "--json", "--port", "0", *_GRAPHS)
        workers = [await processes.worker(*_GRAPHS)]
        url = (await gateway.json_line())["url"]
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        browser = await playwright.chromium.launch(executable_path=_CHROMIUM, args=arguments)
        expect.set_options(timeout=_PATIENCE_MS)
        console = Console(processes, browser, gateway, workers, url, [])
        yield console
        await browser.close()
        assert console.problems == []


async def say(page: Page, text: str, assistant: str = "agent") -> None:
    await page.get_by_label("to", exact=True).select_option(label=assistant)
    await page.get_by_label("Message").fill(text)
    await page.keyboard.press("Enter")


async def answer(page: Page) -> str:
    """What stands there as the last thing that an assistant has said."""
    said = page.locator(".message.ai:not(.void) .said:not([hidden])")
    return await said.last.text_content() or "" if await said.count() else ""


async def answering(page: Page) -> str:
    """Wait until the page shows the part of an answer that the agent says before it is told to go on."""

    async def is_held() -> bool:
        return len((await answer(page)).split()) >= 12

    await until(is_held, "tokens on the page", 30)
    await expect(page.locator(".end")).to_have_count(0)
    return await answer(page)


async def ended(page: Page, how: str = "Done") -> None:
    await expect(page.locator(".end").last).to_contain_text(how)


def thread_of(page: Page) -> str:
    found = re.search(r"#/chat/([0-9a-f-]{36})$", page.url)
    assert found, page.url
    return found[1]


async def picture(page: Page, name: str) -> None:
    """Take a picture for the docs, if asked to."""
    if _PICTURES:
        await page.screenshot(path=Path(_PICTURES) / f"{name}.png")


async def test_a_message_is_answered_token_by_token(console: Console) -> None:
    console.hold()
    page = await console.open()
    await say(page, _QUESTION)
    began = await answering(page)
    console.go()
    await ended(page)

    said = await answer(page)
    assert said == await console.saved_answer(thread_of(page))
    assert said.startswith(began)
    assert said != began
    await expect(page.locator(".calls code").first).to_have_text("current_time()")
    await expect(page.locator(".message.tool .said").last).to_have_text("6 * 7 = 42")
    await expect(page.locator(".void")).to_have_count(0)


async def test_what_a_killed_worker_had_said_is_struck_through(console: Console) -> None:
    console.hold()
    page = await console.open()
    await say(page, _QUESTION)
    began = await answering(page)
    console.workers.append(await console.processes.worker(*_GRAPHS))
    run = await console.newest()
    watcher = await console.open(f"runs/{run['run_id']}")
    await answering(watcher)

    await console.kill_the_worker(run["worker"])

    for each in (page, watcher):
        struck = each.locator(".message.void del").filter(has_text="The tool says")
        await expect(struck).to_have_count(1)
        assert (await struck.inner_text()).startswith(began)
        assert await struck.evaluate("element => getComputedStyle(element).textDecorationLine") == "line-through"
        await expect(each.locator(".hand-over")).to_contain_text(f"{run['worker']} was lost")
    await answering(watcher)
    await picture(watcher, "console-takeover")
    console.go()
    for each in (page, watcher):
        await ended(each)
        assert await answer(each) == await console.saved_answer(thread_of(page))

    await expect(watcher.locator(".attempts li")).to_have_count(2)
    await expect(watcher.locator(".attempts .left.lost .legend")).to_contain_text("lost")
    await expect(watcher.locator(".rows [aria-current] .sub")).to_contain_text("success · attempt 2")
    await watcher.get_by_role("tab", name="Events").click()
    await expect(watcher.locator(".events tr.void").first).to_be_visible()
    await watcher.get_by_role("tab", name="State").click()
    await expect(watcher.locator(".json")).to_contain_text(json.dumps(await answer(page))[1:-1])


async def test_a_reload_in_the_middle_shows_everything_once(console: Console) -> None:
    console.hold()
    page = await console.open()
    await say(page, _QUESTION)
    began = await answering(page)
    await page.reload()
    assert await answering(page) == began
    console.go()
    await ended(page)

    assert await answer(page) == await console.saved_answer(thread_of(page))
    await expect(page.locator(".message.human")).to_have_count(1)
    await expect(page.locator(".message.tool")).to_have_count(2)
    await expect(page.locator(".message.ai")).to_have_count(2)


async def test_a_gateway_that_is_replaced_costs_a_pause(console: Console) -> None:
    console.hold()
    page = await console.open()
    await say(page, _QUESTION)
    began = await answering(page)
    port = console.url.rpartition(":")[2]
    console.gateway.send(signal.SIGKILL)
    await console.gateway.ended()
    await expect(page.get_by_text("reconnecting")).to_be_visible()

    await console.processes.start("gateway", "--port", port, *_GRAPHS)

    await expect(page.get_by_text("reconnecting")).to_have_count(0)
    assert await answer(page) == began
    console.go()
    await ended(page)
    assert await answer(page) == await console.saved_answer(thread_of(page))


async def test_a_run_is_stopped_by_its_button(console: Console) -> None:
    console.hold()
    page = await console.open()
    await say(page, _QUESTION)
    await answering(page)
    await page.get_by_role("button", name="Stop").click()
    await ended(page, "Stopped")
    await expect(page.get_by_role("button", name="Send")).to_be_enabled()

    await say(page, _QUESTION)
    await expect(page.locator(".run-link")).to_have_count(2)
    watcher = await console.open(f"runs/{(await console.newest())['run_id']}")
    await answering(watcher)
    await watcher.get_by_role("button", name="Stop").click()
    await ended(watcher, "Stopped")
    assert (await console.newest())["status"] == "stopped"
    await expect(watcher.get_by_role("button", name="Stop")).to_be_hidden()


async def test_what_a_run_asks_is_answered_on_the_page(console: Console) -> None:
    page = await console.open()
    await say(page, "Send the minutes", "mailer")
    question = page.get_by_role("form", name="The run asks")
    await expect(question).to_contain_text("May I send it?")
    await page.reload()
    await question.get_by_label("Your answer").fill("yes, do")
    await question.get_by_role("button", name="Answer").click()
    await ended(page)

    assert await answer(page) == "You said: yes, do" == await console.saved_answer(thread_of(page))
    await expect(question).to_have_count(0)


async def test_a_tool_call_is_reviewed(console: Console) -> None:
    page = await console.open()
    review = page.get_by_role("form", name="The run asks")
    await say(page, "What is 6 * 7?", "careful")
    await expect(review).to_contain_text('calculate({"expression":"6 * 7"})')
    await review.get_by_label("Approve").check()
    await review.get_by_role("button", name="Answer").click()
    await ended(page)
    await expect(page.locator(".message.tool .said")).to_have_text("6 * 7 = 42")

    await page.goto(f"{console.url}/#/chat")
    await say(page, "What is 8 * 9?", "careful")
    await review.get_by_label("Reject").check()
    await review.get_by_label("Why not").fill("too dear")
    await review.get_by_role("button", name="Answer").click()
    await ended(page)
    await expect(page.locator(".message.tool .said")).to_contain_text("too dear")
    assert await answer(page) == await console.saved_answer(thread_of(page))


async def test_where_keys_are_wanted_it_asks_for_one(console: Console) -> None:
    gateway = await console.processes.start("gateway", "--json", "--port", "0", "--api-keys", *_GRAPHS)
    url = (await gateway.json_line())["url"]
    keys = [
        (await console.processes.run("keys", "create", name, "--owner", name, "--json")).json for name in ("ada", "bob")
    ]
    page = await console.open(url=url)
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("API key").fill("wrong")
    await page.keyboard.press("Enter")
    await expect(dialog).to_contain_text("not valid")
    await dialog.get_by_label("API key").fill(keys[0]["key"])
    await page.keyboard.press("Enter")
    await say(page, "my secret")
    await ended(page)
    await page.reload()
    await expect(page.get_by_role("link", name="my secret")).to_be_visible()

    other = await console.open("runs", url=url)
    await other.get_by_role("dialog").get_by_label("API key").fill(keys[1]["key"])
    await other.keyboard.press("Enter")
    await expect(other.get_by_text("No runs yet")).to_be_visible()


async def test_it_works_under_a_path(console: Console) -> None:
    graphs = {name: f"./agents.py:{name}" for name in ("agent", "careful", "mailer", "broken")}
    config = {"graphs": graphs, "dependencies": ["."], "http": {"mount_prefix": "/my/agents"}}
    console.processes.write("langgraph.json", json.dumps(config))
    gateway = await console.processes.start("gateway", "--json", "--port", "0", "--config", "langgraph.json")
    url = (await gateway.json_line())["url"].removesuffix("/my/agents")
    page = await console.open(url=f"{url}/my/agents")
    await say(page, "hello")
    await ended(page)
    await page.get_by_role("link", name="see the run").click()
    await ended(page)
    assert "You said: hello" in await answer(page)


async def test_threads_are_there_to_go_back_to(console: Console) -> None:
    page = await console.open()
    await say(page, "the first one")
    await ended(page)
    first = await answer(page)
    await page.get_by_role("link", name="New thread").click()
    await expect(page.locator(".message")).to_have_count(0)
    await say(page, "another one")
    await ended(page)

    await page.get_by_role("link", name="the first one").click()
    await expect(page.locator(".message.human")).to_have_text(re.compile("the first one"))
    assert await answer(page) == first
    await say(page, "and now?")
    await ended(page)
    await expect(page.locator(".message.human")).to_have_count(2)


async def test_what_runs_say_is_text(console: Console) -> None:
    page = await console.open()
    await say(page, _MARKUP)
    await ended(page)
    assert _MARKUP in await answer(page)
    watcher = await console.open(f"runs/{(await console.newest())['run_id']}")
    await ended(watcher)
    for tab in ("Events", "State", "Stream"):
        await watcher.get_by_role("tab", name=tab).click()
    for each in (page, watcher):
        await expect(each.locator("main img, main b")).to_have_count(0)


async def test_the_list_of_runs_follows_them(console: Console) -> None:
    watcher = await console.open("runs")
    await expect(watcher.get_by_text("No runs yet")).to_be_visible()
    page = await console.open()
    for text, assistant in (("File this", "broken"), ("Send the minutes", "mailer"), ("What is 12 * 34?", "agent")):
        await page.goto(f"{console.url}/#/chat")
        await say(page, text, assistant)
        await expect(page.locator(".end")).to_have_count(1)
    console.hold()
    await page.goto(f"{console.url}/#/chat")
    await say(page, _QUESTION)

    row = watcher.get_by_role("link", name=_QUESTION)
    await expect(row).to_contain_text("running")
    for text, status in (("File this", "error"), ("Send the minutes", "interrupted"), ("12 * 34", "success")):
        await expect(watcher.get_by_role("link", name=text)).to_contain_text(status)
    await expect(watcher.locator("#fleet")).to_contain_text("1 worker")
    await row.click()
    await answering(watcher)
    await picture(watcher, "console-runs")
    console.go()
    await expect(row).to_contain_text("success")
    await ended(watcher)
    await watcher.get_by_role("link", name="File this").click()
    await ended(watcher, "ValueError: the mailbox is full")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_it_fits_a_phone_and_a_keyboard(console: Console, scheme: str) -> None:
    page = await console.open(viewport={"width": 390, "height": 800}, color_scheme=scheme)
    await say(page, _QUESTION)
    await ended(page)
    await page.get_by_role("link", name="see the run").click()
    await ended(page)

    for tab in ("Stream", "Events", "State"):
        await expect(page.get_by_role("tab", name=tab)).to_have_attribute(
            "aria-selected", "false" if tab != "Stream" else "true"
        )
    await page.get_by_role("tab", name="Stream").focus()
    await page.keyboard.press("ArrowRight")
    await expect(page.get_by_role("tab", name="Events")).to_be_focused()
    await page.keyboard.press("ArrowRight")
    await expect(page.get_by_role("tabpanel", name="State")).to_contain_text("values")
    await page.locator(".back").press("Enter")
    await expect(page.get_by_role("link", name=_QUESTION)).to_be_visible()
    assert await page.evaluate("document.documentElement.scrollWidth") == 390
    ground = await page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(247, 247, 245)", "dark": "rgb(20, 22, 21)"}[scheme]
