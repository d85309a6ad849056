// One run, followed: its events are folded, and shown at most once for each frame of the screen.

import { follow } from "./api.js";
import { announce, count } from "./dom.js";
import { Fold } from "./fold.js";

/**
 * Follow a run until its end or until `signal` aborts.
 *
 * @param {object} views `onChange(entries)` with what is new or has changed; `onState(text)` with what is to be told of
 *   the connection; both may be called often.
 * @returns {{fold: Fold, done: Promise<void>}} what is known of it, and its end; `done` fails where the run is not there.
 */
export function followRun(runId, signal, { onChange, onState }) {
  const fold = new Fold();
  const changed = new Set();
  let isDue = false;

  function show() {
    isDue = false;
    if (signal.aborted || changed.size === 0) return;
    const entries = fold.entries.length === changed.size ? [...fold.entries] : [...changed];
    changed.clear();
    onChange(entries);
  }

  function onEvents(events) {
    for (const event of events) {
      for (const entry of fold.apply(event)) {
        changed.add(entry);
        tell(entry);
      }
    }
    if (isDue) return;
    isDue = true;
    // A hidden page is given no frames.
    if (document.hidden) setTimeout(show);
    else requestAnimationFrame(show);
  }

  const done = follow(runId, { onEvents, onState, signal }).then(show);
  return { fold, done };
}

function tell(entry) {
  if (entry.kind === "attempt" && entry.attempt > 1) {
    announce(`Attempt ${entry.attempt} began; ${count(entry.voids, "event")} void`);
  } else if (entry.kind === "end") {
    announce(`The run has ended: ${entry.status}`);
  }
}
