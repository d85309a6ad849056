// A conversation with an assistant on a thread, and the threads to go back to.

import { get, post } from "./api.js";
import { ago, h, keepingBottom, setText } from "./dom.js";
import { textOf } from "./fold.js";
import { followRun } from "./following.js";
import { questions } from "./questions.js";
import { Transcript, messageView, pretty, questionCard } from "./transcript.js";

const MODES = ["messages-tuple", "updates"];
const ASSISTANT = "runstream.assistant";
const ACTIVE = ["pending", "running"];

/** The view of the chat; gives what is called when another thread is chosen. */
export function showChat(main, signal) {
  const threads = h("ul", { class: "rows", "aria-label": "Threads" });
  const fresh = h("a", { class: "button", href: "#/chat" }, "New thread");
  const side = h("section", { class: "side", "aria-label": "Threads" }, h("h1", {}, "Threads", fresh), threads);
  const chat = new Chat(signal, (threadId) => listThreads(threads, threadId, signal));
  main.replaceChildren(h("div", { class: "split" }, side, chat.element));
  return (threadId) => {
    main.firstElementChild.classList.toggle("has-detail", threadId !== "list");
    chat.choose(threadId === "list" ? null : threadId);
  };
}

async function listThreads(list, current, signal) {
  const found = await post("threads/search", {
    limit: 40,
    sort_by: "updated_at",
    select: ["thread_id", "status", "updated_at", "metadata"],
    extract: { first: "values.messages[0].content" },
  });
  if (signal.aborted) return;
  const rows = found.map((thread) => {
    const title = textOf(thread.extracted?.first) || "(empty)";
    return h(
      "li",
      {},
      h(
        "a",
        { href: `#/chat/${thread.thread_id}`, "aria-current": thread.thread_id === current ? "true" : null },
        h("span", { class: `dot ${thread.status}`, "aria-hidden": "true" }),
        h("span", { class: "title" }, title),
        h("span", { class: "sub dim" }, `${thread.status} · ${thread.metadata.graph_id ?? "new"} · ${ago(thread.updated_at)}`),
      ),
    );
  });
  list.replaceChildren(...rows);
}

class Chat {
  constructor(signal, listThreads) {
    this._signal = signal;
    this._listThreads = listThreads;
    this._threadId = null;
    this._run = null;
    this._leave = new AbortController();
    signal.addEventListener("abort", () => this._leave.abort());
    this._build();
    this._assistants = this._loadAssistants();
  }

  _build() {
    this._conversation = h("div", { class: "conversation" });
    this._scroller = h("div", { class: "scroll", tabindex: "0" }, this._conversation);
    this._asked = h("div", { class: "asked" });
    this._problem = h("p", { class: "connection", role: "status" });
    this._assistant = h("select", { id: "assistant" });
    this._text = h("textarea", { id: "message", rows: 2, placeholder: "Write a message" });
    this._send = h("button", { type: "submit", class: "primary" }, "Send");
    this._stop = h("button", { type: "button", class: "danger", hidden: true }, "Stop");
    this._stop.addEventListener("click", () => this._guarded(() => this._cancel()));
    this._text.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      form.requestSubmit();
    });
    this._assistant.addEventListener("change", () => sessionStorage.setItem(ASSISTANT, this._assistant.value));
    const form = h(
      "form",
      { class: "composer" },
      h("label", { for: "message", class: "unseen" }, "Message"),
      this._text,
      h(
        "div",
        { class: "composer-row" },
        h("label", { for: "assistant", class: "dim" }, "to"),
        this._assistant,
        this._problem,
        this._stop,
        this._send,
      ),
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const text = this._text.value.trim();
      if (text && this._run === null) this._guarded(() => this._say(text));
    });
    const back = h("a", { class: "back", href: "#/chat/list" }, "‹ Threads");
    this.element = h(
      "section",
      { class: "detail", "aria-label": "Conversation" },
      h("header", { class: "head slim" }, back),
      this._scroller,
      this._asked,
      form,
    );
  }

  async _loadAssistants() {
    await this._guarded(async () => {
      const found = await post("assistants/search", { limit: 100, sort_by: "name", sort_order: "asc" });
      const options = found.map((one) => h("option", { value: one.assistant_id }, one.name || one.graph_id));
      this._assistant.replaceChildren(...options);
      const before = sessionStorage.getItem(ASSISTANT);
      if (found.some((one) => one.assistant_id === before)) this._assistant.value = before;
    });
  }

  /** Show a thread; null for one that is yet to be. */
  async choose(threadId) {
    this._listThreads(threadId).catch((error) => setText(this._problem, error.message));
    if (threadId === this._threadId && threadId !== null) return;
    this._leave.abort();
    this._leave = new AbortController();
    this._threadId = threadId;
    this._setRun(null);
    this._asked.replaceChildren();
    setText(this._problem, "");
    if (threadId === null) {
      this._conversation.replaceChildren(h("p", { class: "empty" }, "Say something: a worker will answer."));
      this._text.focus({ preventScroll: true });
      return;
    }
    this._conversation.replaceChildren();
    await this._guarded(() => this._load(threadId, this._leave.signal));
  }

  async _load(threadId, signal) {
    const path = `threads/${encodeURIComponent(threadId)}`;
    // In this order: what the run saves after this is among its events, which are read from their start.
    const [newest] = await get(`${path}/runs?limit=1`, signal);
    const thread = await get(path, signal);
    await this._assistants;
    const isActive = newest !== undefined && ACTIVE.includes(newest.status);
    const asked = isActive ? lastText(newest.kwargs.input) : "";
    this._showHistory(thread.values, asked);
    if (newest?.assistant_id) this._assistant.value = newest.assistant_id;
    if (isActive) await this._follow(newest, asked);
    else if (thread.status === "interrupted") this._ask(Object.values(thread.interrupts).flat());
    this._scroller.scrollTop = this._scroller.scrollHeight;
  }

  /** What was said before: all of the thread's state, but for the question that the run at work answers. */
  _showHistory(values, asked) {
    this._history = new Map();
    const messages = Array.isArray(values?.messages) ? values.messages : null;
    if (messages === null) {
      if (values) this._conversation.append(h("pre", { class: "json" }, pretty(values)));
      return;
    }
    const at = asked ? messages.findLastIndex((one) => one.type === "human" && textOf(one.content) === asked) : -1;
    for (const message of at < 0 ? messages : messages.slice(0, at)) this._showMessage(entryOf(message));
  }

  _showMessage(entry) {
    const view = messageView(entry);
    view.refresh();
    this._conversation.append(view.element);
    if (entry.messageId) this._history.set(entry.messageId, view.element);
  }

  async _say(text) {
    const body = { input: { messages: [{ role: "user", content: text }] } };
    this._setRun({});
    try {
      if (this._threadId === null) {
        this._threadId = (await post("threads")).thread_id;
        this._history = new Map();
        this._conversation.replaceChildren();
        location.hash = `#/chat/${this._threadId}`;
      }
      this._asked.replaceChildren();
      const run = await this._begin(body);
      this._text.value = "";
      await this._follow(run, text);
    } finally {
      if (this._run?.run_id === undefined) this._setRun(null);
    }
  }

  async _answer(interrupts, resume) {
    const run = await this._begin(resume === undefined ? { input: null } : { command: { resume } });
    this._asked.replaceChildren();
    if (interrupts.length) this._conversation.append(questionCard(interrupts));
    if (resume !== undefined) this._showMessage(entryOf({ type: "human", content: pretty(resume) }));
    await this._follow(run, "");
  }

  _begin(body) {
    const more = { assistant_id: this._assistant.value, stream_mode: MODES, stream_subgraphs: true };
    return post(`threads/${this._threadId}/runs`, { ...body, ...more });
  }

  async _follow(run, asked) {
    const { signal } = this._leave;
    this._setRun(run);
    if (asked) this._showMessage(entryOf({ type: "human", content: asked }));
    const following = followRun(run.run_id, signal, {
      onChange: (entries) => keepingBottom(this._scroller, () => this._show(transcript, entries)),
      onState: (text) => setText(this._problem, text),
    });
    const transcript = new Transcript(following.fold, ["messages", "updates"], { asks: false });
    const link = h("a", { class: "run-link", href: `#/runs/${run.run_id}` }, "see the run");
    this._conversation.append(transcript.element, link);
    this._scroller.scrollTop = this._scroller.scrollHeight;
    await following.done;
    if (signal.aborted) return;
    this._setRun(null);
    this._listThreads(this._threadId).catch((error) => setText(this._problem, error.message));
    if (following.fold.status === "interrupted") this._ask(following.fold.interrupts);
    else this._text.focus({ preventScroll: true });
  }

  _show(transcript, entries) {
    for (const entry of entries) {
      // What the run has saved already was among what was there before.
      const before = entry.kind === "message" ? this._history.get(entry.messageId) : undefined;
      if (before) before.remove();
    }
    transcript.update(entries);
  }

  _ask(interrupts) {
    const form = questions(interrupts, (resume) => this._guarded(() => this._answer(interrupts, resume)));
    this._asked.replaceChildren(form);
    form.querySelector("textarea, input, button").focus({ preventScroll: true });
  }

  async _cancel() {
    this._stop.disabled = true;
    const { run_id: runId, thread_id: threadId } = this._run;
    await post(`threads/${threadId}/runs/${runId}/cancel`);
  }

  _setRun(run) {
    this._run = run;
    this._send.disabled = run !== null;
    this._stop.hidden = run?.run_id === undefined;
    this._stop.disabled = false;
    this.element.setAttribute("aria-busy", String(run !== null));
  }

  async _guarded(action) {
    const { signal } = this._leave;
    try {
      await action();
    } catch (error) {
      if (signal.aborted || this._signal.aborted) return;
      setText(this._problem, error.message);
      this._setRun(null);
    }
  }
}

function lastText(input) {
  const messages = input?.messages;
  const last = Array.isArray(messages) ? messages.at(-1) : messages;
  return typeof last === "string" ? last : textOf(last?.content);
}

function entryOf(message) {
  return {
    kind: "message",
    messageId: message.id ?? null,
    role: message.type,
    name: message.name ?? null,
    node: null,
    ns: [],
    text: textOf(message.content),
    thought: "",
    calls: (message.tool_calls ?? []).map((call) => ({ name: call.name, args: JSON.stringify(call.args) })),
    failed: message.status === "error",
    void: false,
  };
}
