// One run: its attempts, its stream as it comes, its events, what it has saved; and the button that stops it.

import { get, post } from "./api.js";
import { count, h, keepingBottom, oneLine, setText, span, workerName } from "./dom.js";
import { textOf } from "./fold.js";
import { followRun } from "./following.js";
import { Transcript, pretty } from "./transcript.js";

const MOST_EVENTS = 400;
const STATE_EVERY_MS = 1000;
const CAUSES = { lost: "lost", drained: "shut down", fault: "fault" };

export async function showRun(element, runId, signal) {
  element.replaceChildren(h("p", { class: "empty" }, "…"));
  let run;
  try {
    run = await get(`console/runs/${encodeURIComponent(runId)}`, signal);
  } catch (error) {
    if (!signal.aborted) element.replaceChildren(back(), h("p", { class: "empty" }, error.message));
    return;
  }
  if (signal.aborted) return;

  const head = headOf(run);
  const bar = h("ol", { class: "attempts", "aria-label": "Attempts" });
  const connection = h("p", { class: "connection", role: "status" });
  const scroller = h("div", { class: "scroll", tabindex: "0" });
  const following = followRun(run.run_id, signal, { onChange, onState: (text) => setText(connection, text) });
  const { fold } = following;
  const transcript = new Transcript(fold, run.stream_mode);
  const asked = inputOf(run);
  const events = h("table", { class: "events" });
  const state = h("pre", { class: "json" });
  const tabs = tabsOf([
    ["Stream", h("div", { class: "conversation" }, asked, transcript.element)],
    ["Events", events, drawEvents],
    ["State", state, drawState],
  ]);
  scroller.append(...tabs.panels);
  element.replaceChildren(head.element, bar, h("div", { class: "tab-row" }, tabs.list, connection), scroller);

  let stateAt = 0;
  const clock = setInterval(() => drawAttempts(bar, run, fold), 250);
  signal.addEventListener("abort", () => clearInterval(clock));

  function onChange(entries) {
    keepingBottom(scroller, () => {
      transcript.update(entries);
      tabs.refresh();
    });
    head.refresh(fold.status);
    drawAttempts(bar, run, fold);
  }

  function drawEvents() {
    const shown = fold.events.slice(-MOST_EVENTS);
    const left = fold.events.length - shown.length;
    const rows = shown.map((record) =>
      h(
        "tr",
        { class: record.void ? "void" : record.mode },
        h("th", { scope: "row" }, record.id ?? ""),
        h("td", {}, [record.mode, ...record.ns.map((one) => one.split(":")[0])].join(" › ")),
        h("td", {}, h(record.void ? "del" : "span", {}, oneLine(told(record), 160))),
      ),
    );
    const caption = left ? `The last ${shown.length} of ${count(fold.events.length, "event")}` : count(shown.length, "event");
    events.replaceChildren(h("caption", {}, fold.voided ? `${caption}, ${fold.voided} void` : caption), h("tbody", {}, ...rows));
  }

  async function drawState(isAsked = false) {
    const now = Date.now();
    if (!isAsked && !fold.ended && now - stateAt < STATE_EVERY_MS) return;
    stateAt = now;
    try {
      const found = await get(`console/runs/${encodeURIComponent(run.run_id)}/state`, signal);
      setText(state, pretty({ values: found.values, next: found.next, checkpoint: found.checkpoint }));
    } catch (error) {
      if (!signal.aborted) setText(state, error.message);
    }
  }

  try {
    await following.done;
    if (signal.aborted) return;
    run = await get(`console/runs/${encodeURIComponent(run.run_id)}`, signal);
    head.refresh(run.status);
    drawAttempts(bar, run, fold);
    clearInterval(clock);
    tabs.refresh();
  } catch (error) {
    if (!signal.aborted) setText(connection, error.message);
  }
}

function back() {
  return h("a", { class: "back", href: "#/runs" }, "‹ Runs");
}

/** What the run was asked: the last message of its input, or all of what it was given. */
function inputOf({ input, command }) {
  const given = command ?? input;
  if (given === null || given === undefined) return null;
  const last = [given.messages ?? []].flat().at(-1);
  const text = typeof last === "string" ? last : textOf(last?.content);
  const shown = text ? h("p", { class: "said" }, text) : h("pre", { class: "said" }, pretty(given));
  return h("article", { class: "message human" }, h("h3", { class: "who" }, command ? "Command" : "Input"), shown);
}

function told(record) {
  if (record.mode === "messages") {
    const [message] = record.data;
    return oneLine(message.content || message.tool_call_chunks || message.tool_calls || "", 160);
  }
  return record.data;
}

function headOf(run) {
  const status = h("span", { class: "pill" });
  const stop = h("button", { type: "button", class: "danger" }, "Stop");
  stop.addEventListener("click", async () => {
    stop.disabled = true;
    setText(stop, "Stopping…");
    try {
      await post(`threads/${run.thread_id}/runs/${run.run_id}/cancel?reason=${encodeURIComponent("stopped in the console")}`);
    } catch (error) {
      stop.disabled = false;
      setText(stop, `Stop (${error.message})`);
    }
  });
  const chat = run.stateless ? null : h("a", { href: `#/chat/${run.thread_id}` }, "thread");
  const facts = h(
    "p",
    { class: "facts" },
    h("code", {}, run.run_id),
    ` · ${run.graph} · ${new Date(run.created_at).toLocaleString()}`,
    chat ? " · " : null,
    chat,
  );
  const title = h("h2", {}, run.title || run.graph);
  const element = h("header", { class: "head" }, back(), h("div", { class: "head-row" }, title, status, stop), facts);
  function refresh(now) {
    status.className = `pill ${now}`;
    setText(status, now);
    stop.hidden = !["queued", "running"].includes(now);
  }
  refresh(run.status);
  return { element, refresh };
}

/** The attempts, each as wide as it took; those that were lost, hatched. */
function drawAttempts(bar, run, fold) {
  const attempts = fold.attempts;
  const end = fold.entries.findLast((entry) => entry.kind === "end")?.at ?? Date.now();
  attempts.forEach((attempt, at) => {
    const holder = run.holders.find((one) => one.attempt === attempt.attempt);
    const until = attempts[at + 1]?.at ?? end;
    const cause = attempt.left?.cause ?? holder?.cause ?? null;
    const item = bar.children[at] ?? bar.appendChild(h("li", {}, h("span", { class: "piece" }), h("span", { class: "legend" })));
    item.className = cause ? `left ${cause}` : fold.ended ? fold.status : "running";
    item.style.flexGrow = String(Math.max(until - attempt.at, 1));
    const name = `${attempt.attempt} · ${workerName(attempt.worker)}`;
    setText(item.lastElementChild, `${name} · ${span(until - attempt.at)}${cause ? ` · ${CAUSES[cause] ?? cause}` : ""}`);
  });
  bar.hidden = attempts.length === 0;
}

/** Tabs as ARIA has them: arrows move between them. */
function tabsOf(given) {
  const list = h("div", { role: "tablist", class: "tabs", "aria-label": "What to show of the run" });
  const tabs = given.map(([name, content, draw], at) => {
    const id = `tab-${name.toLowerCase()}`;
    const tab = h("button", { type: "button", role: "tab", id, "aria-controls": `${id}-panel` }, name);
    const panel = h("div", { role: "tabpanel", id: `${id}-panel`, "aria-labelledby": id }, content);
    tab.addEventListener("click", () => choose(at));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (step) choose((at + step + given.length) % given.length, true);
    });
    list.append(tab);
    return { tab, panel, draw };
  });
  let current = 0;
  function choose(at, focus = false) {
    current = at;
    tabs.forEach(({ tab, panel }, index) => {
      tab.setAttribute("aria-selected", String(index === at));
      tab.tabIndex = index === at ? 0 : -1;
      panel.hidden = index !== at;
    });
    if (focus) tabs[at].tab.focus();
    tabs[at].draw?.(true);
  }
  choose(0);
  return { list, panels: tabs.map(({ panel }) => panel), refresh: () => tabs[current].draw?.() };
}
