// A run's entries (see `fold.js`) as they are read: messages, hand-overs, what is void struck through.

import { count, h, oneLine, setText, workerName } from "./dom.js";

const LEFT = {
  lost: "was lost",
  drained: "was shut down",
  fault: "could not go on",
};
const ENDS = {
  success: "Done",
  error: "Failed",
  interrupted: "Waits for an answer",
  stopped: "Stopped",
  timeout: "Took too long",
  lost: "Lost",
};

export class Transcript {
  /**
   * @param {Fold} fold whose entries are shown.
   * @param {string[]} modes what the run streams: what several modes tell is shown once.
   * @param {{asks?: boolean}} options whether what the run asks is shown here, or by whoever takes the answer.
   */
  constructor(fold, modes, { asks = true } = {}) {
    this.element = h("div", { class: "transcript" });
    this._fold = fold;
    this._asks = asks;
    this._showsValues = !modes.some((mode) => mode === "messages" || mode === "updates");
    this._spoken = new Set();
    this._views = new Map();
    this._dirty = new Set();
  }

  /** Show entries that are new or have changed. */
  update(entries) {
    for (const entry of entries) {
      if (entry.kind === "message" && entry.task) this._spoken.add(entry.task);
      let view = this._views.get(entry);
      if (view === undefined) {
        view = this._viewOf(entry);
        this._views.set(entry, view);
        if (view !== null) this.element.append(view.element);
      }
      view?.refresh();
    }
    for (const view of this._views.values()) view?.settle?.(this._fold.ended);
  }

  _viewOf(entry) {
    switch (entry.kind) {
      case "message":
        return entry.role === "remove" ? null : messageView(entry);
      case "attempt":
        return entry.attempt === 1 ? null : still(handOver(entry));
      case "interrupt":
        return this._asks ? interruptView(entry) : null;
      case "end":
        return still(endLine(entry));
      case "gap":
        return still(h("p", { class: "line" }, "Some of what came here has been removed"));
      default:
        return this._tells(entry) ? noteView(entry) : null;
    }
  }

  _tells({ mode, task }) {
    if (mode === "custom") return true;
    if (mode === "updates") return task === null || !this._spoken.has(task);
    return mode === "values" && this._showsValues;
  }
}

function still(element) {
  return { element, refresh() {} };
}

/** What somebody said. */
export function messageView(entry) {
  const text = document.createTextNode("");
  const said = h("p", { class: "said" }, text);
  const thought = h("p", { class: "thought", hidden: true });
  const calls = h("ul", { class: "calls", hidden: true });
  const badge = h("span", { class: "badge", hidden: true }, "void");
  const who = h("h3", { class: "who" }, h("span", {}, whoSpeaks(entry)), badge);
  const element = h("article", { class: `message ${entry.role}` }, who, thought, said, calls);
  return {
    element,
    refresh() {
      // Growing text is appended to, so that a selection in it stays.
      if (entry.text.startsWith(text.data)) text.appendData(entry.text.slice(text.data.length));
      else text.data = entry.text;
      said.hidden = entry.text === "";
      setText(thought, entry.thought);
      thought.hidden = entry.thought === "";
      calls.hidden = entry.calls.length === 0;
      showCalls(calls, entry.calls);
      setText(badge, entry.removed ? "removed" : "void");
      if (entry.void && badge.hidden) strike(element, badge, [said, thought, calls]);
      element.classList.toggle("failed", entry.failed === true);
    },
    settle(ended) {
      element.classList.toggle("open", !ended && !entry.void && entry.role === "ai" && element.matches(":last-child"));
    },
  };
}

function whoSpeaks({ role, name, node, ns }) {
  if (role === "human") return "You";
  const where = (ns ?? []).map((one) => one.split(":")[0]);
  const speaker = role === "tool" ? `tool ${name ?? ""}`.trim() : (name ?? node ?? role);
  return [...where, speaker].join(" › ");
}

function strike(element, badge, parts) {
  element.classList.add("void");
  badge.hidden = false;
  for (const part of parts) {
    const struck = h(part.tagName === "UL" ? "li" : "del");
    if (part.tagName === "UL") for (const item of part.children) item.replaceChildren(h("del", {}, ...item.childNodes));
    else {
      struck.append(...part.childNodes);
      part.append(struck);
    }
  }
}

function showCalls(list, calls) {
  calls.forEach((call, at) => {
    const item = list.children[at] ?? list.appendChild(h("li", {}, "calls ", h("code")));
    setText(item.querySelector("code"), `${call.name}(${argumentsOf(call.args)})`);
  });
}

/** The arguments of a call as they are written in code; as they are, while they are being said. */
function argumentsOf(json) {
  try {
    const given = Object.entries(JSON.parse(json));
    return oneLine(given.map(([name, value]) => `${name}=${JSON.stringify(value)}`).join(", "), 200);
  } catch {
    return oneLine(json, 200);
  }
}

function handOver(entry) {
  const why = entry.left ? `${workerName(entry.before ?? "the worker")} ${LEFT[entry.left] ?? entry.left}; ` : "";
  const what = entry.voids ? `${count(entry.voids, "event")} above ${entry.voids === 1 ? "is" : "are"} void` : "nothing is void";
  return h(
    "p",
    { class: "hand-over" },
    h("strong", {}, `Attempt ${entry.attempt}`),
    ` on ${workerName(entry.worker)} `,
    h("span", { class: "dim" }, `${why}${what}`),
  );
}

function interruptView(entry) {
  const element = questionCard(entry.asked);
  return { element, refresh: () => element.classList.toggle("void", entry.void) };
}

/** What a run asked. */
export function questionCard(asked) {
  const values = asked.map(({ value }) => h("pre", {}, pretty(value)));
  return h("div", { class: "asks" }, h("h3", { class: "who" }, "The run asks"), ...values);
}

function noteView(entry) {
  const told = h("code", {}, oneLine(entry.data));
  const element = h("p", { class: "note" }, h("span", { class: "mode" }, entry.mode), " ", told);
  return { element, refresh: () => element.classList.toggle("void", entry.void) };
}

function endLine({ status, error, reason }) {
  const told = error ? `${error.error ?? error.type}: ${error.message}` : reason;
  return h(
    "p",
    { class: `line end ${status}` },
    h("span", { class: `dot ${status}`, "aria-hidden": "true" }),
    h("strong", {}, ENDS[status] ?? status),
    told ? h("span", { class: "dim" }, ` ${told}`) : null,
  );
}

/** JSON as it is read. */
export function pretty(value) {
  return typeof value === "string" ? value : JSON.stringify(value, null, 2);
}
