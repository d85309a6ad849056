// The runs: the newest first, as they are now; and one of them beside it.

import { delay, get } from "./api.js";
import { ago, count, h, setText } from "./dom.js";
import { showRun } from "./run.js";

const EVERY_MS = 1000;
const HIDDEN_MS = 10000;
const SHOWN = 60;

/** The view of all runs; gives what is called when another run is chosen. */
export function showRuns(main, signal) {
  const list = h("ul", { class: "rows", "aria-label": "Runs" });
  const empty = h("p", { class: "empty", hidden: true }, "No runs yet. Begin one in the chat, or enqueue one.");
  const told = h("p", { class: "dim told" });
  const side = h("section", { class: "side", "aria-label": "Runs" }, h("h1", {}, "Runs", told), empty, list);
  const detail = h("section", { class: "detail", "aria-label": "Run" });
  main.replaceChildren(h("div", { class: "split" }, side, detail));

  const rows = new Map();
  const titles = new Map();
  let chosen = null;
  let leave = new AbortController();
  signal.addEventListener("abort", () => leave.abort());

  function draw(runs) {
    for (const run of runs) {
      if (!rows.has(run.run_id)) rows.set(run.run_id, rowOf(run.run_id));
      rows.get(run.run_id).refresh(run, titles.get(run.run_id) ?? "", run.run_id === chosen);
    }
    const wanted = runs.map((run) => rows.get(run.run_id).element);
    // Elements that are where they belong are not moved: the focus stays in them.
    wanted.forEach((element, at) => {
      if (list.children[at] !== element) list.insertBefore(element, list.children[at] ?? null);
    });
    while (list.children.length > wanted.length) list.lastElementChild.remove();
    const ids = new Set(runs.map((run) => run.run_id));
    for (const id of rows.keys()) if (!ids.has(id)) rows.delete(id);
    empty.hidden = runs.length > 0;
    const going = runs.filter((run) => !run.ended_at).length;
    setText(told, runs.length === 0 ? "" : going ? `${count(going, "goes on", "go on")}` : "all have ended");
  }

  async function watch() {
    while (!signal.aborted) {
      try {
        const runs = await get(`console/runs?limit=${SHOWN}`, signal);
        const unknown = runs.map((run) => run.run_id).filter((id) => !titles.has(id));
        if (unknown.length) {
          const query = unknown.map((id) => `run_id=${id}`).join("&");
          const found = await get(`console/titles?${query}`, signal);
          for (const id of unknown) titles.set(id, found[id] ?? "");
        }
        draw(runs);
      } catch (error) {
        if (signal.aborted) return;
        setText(told, error.message);
      }
      await delay(document.hidden ? HIDDEN_MS : EVERY_MS, signal);
    }
  }

  function choose(runId) {
    chosen = runId;
    leave.abort();
    leave = new AbortController();
    main.firstElementChild.classList.toggle("has-detail", runId !== null);
    for (const [id, row] of rows) row.mark(id === chosen);
    if (runId === null) {
      detail.replaceChildren(h("p", { class: "empty" }, "Choose a run to see what it does."));
    } else {
      showRun(detail, runId, leave.signal);
    }
  }

  watch();
  return choose;
}

function rowOf(runId) {
  const dot = h("span", { class: "dot", "aria-hidden": "true" });
  const title = h("span", { class: "title" });
  const status = h("span", { class: "status" });
  const told = h("span", { class: "dim" });
  const link = h("a", { href: `#/runs/${runId}` }, dot, title, h("span", { class: "sub" }, status, told));
  const element = h("li", {}, link);
  const mark = (isChosen) => (isChosen ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current"));
  return {
    element,
    mark,
    refresh(run, text, isChosen) {
      dot.className = `dot ${run.status}`;
      status.className = `status ${run.status}`;
      setText(title, text || run.graph);
      setText(status, run.status);
      const tries = run.attempt > 1 ? ` · attempt ${run.attempt}` : "";
      setText(told, `${tries} · ${run.graph} · ${ago(run.created_at)}`);
      mark(isChosen);
    },
  };
}
