// The page: which view is shown, the workers that there are, the key where one is wanted.

import { delay, get, hasKey, onKeyWanted, setKey } from "./api.js";
import { showChat } from "./chat.js";
import { count, setText } from "./dom.js";
import { showRuns } from "./runs.js";

const FLEET_EVERY_MS = 2000;
const VIEWS = { runs: showRuns, chat: showChat };

const main = document.getElementById("main");
const dialog = document.getElementById("key");
const shown = { view: null, choose: null, leave: new AbortController() };

function route() {
  if (location.hash && !location.hash.startsWith("#/")) return;
  const [, name = "", id = ""] = location.hash.split("/");
  const view = name in VIEWS ? name : "runs";
  if (view !== shown.view) {
    shown.leave.abort();
    shown.leave = new AbortController();
    shown.view = view;
    shown.choose = VIEWS[view](main, shown.leave.signal);
    document.title = `${view === "runs" ? "Runs" : "Chat"} · runstream`;
    for (const link of document.querySelectorAll("[data-view]")) {
      if (link.dataset.view === view) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
  }
  shown.choose(id === "" ? null : decodeURIComponent(id));
}

async function watchFleet() {
  const told = document.getElementById("fleet");
  for (;;) {
    try {
      const workers = await get("console/workers");
      if (workers === null) {
        // Whoever sees its own things only is not told of workers.
        setText(told, "");
        return;
      }
      const running = workers.reduce((sum, worker) => sum + worker.running, 0);
      setText(told, workers.length ? `${count(workers.length, "worker")} · ${running} running` : "no workers");
      told.title = workers.map((one) => `${one.worker_id}: ${one.graphs.join(", ")}, ${one.running} of ${one.concurrency}`).join("\n");
      told.classList.toggle("none", workers.length === 0);
    } catch (error) {
      setText(told, error.status ? error.message : "the gateway is away");
      told.classList.add("none");
    }
    document.getElementById("change-key").hidden = !hasKey();
    await delay(document.hidden ? 5 * FLEET_EVERY_MS : FLEET_EVERY_MS);
  }
}

let asking = null;

function askForKey(problem) {
  asking ??= new Promise((resolve) => {
    setText(document.getElementById("key-problem"), problem);
    const value = document.getElementById("key-value");
    dialog.addEventListener(
      "close",
      () => {
        if (value.value.trim()) setKey(value.value);
        value.value = "";
        asking = null;
        resolve();
      },
      { once: true },
    );
    dialog.showModal();
  });
  return asking;
}

onKeyWanted(askForKey);
document.getElementById("change-key").addEventListener("click", async () => {
  await askForKey("");
  location.reload();
});
window.addEventListener("hashchange", route);
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
route();
watchFleet();
