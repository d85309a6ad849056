// The gateway's API. All paths are relative, so that the page works behind a prefix.

const KEY = "runstream.key";
const RETRY_MS = 300;
const MOST_RETRY_MS = 4000;
// The gateway sends a comment every few seconds; a stream that is silent for longer is dead.
const SILENCE_MS = 25000;

/** An answer that is a refusal. */
export class Refused extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

let askForKey = async () => {};

/** Say what asks for a key when the gateway wants one; it resolves when there is another one to try. */
export function onKeyWanted(ask) {
  askForKey = ask;
}

export function hasKey() {
  return sessionStorage.getItem(KEY) !== null;
}

export function setKey(key) {
  sessionStorage.setItem(KEY, key.trim());
}

function headers(more = {}) {
  const key = sessionStorage.getItem(KEY);
  if (key === null) return more;
  // A project's own authentication reads what it likes from `Authorization`.
  return key.includes(" ") ? { ...more, authorization: key } : { ...more, "x-api-key": key };
}

async function request(path, options) {
  for (;;) {
    const sent = sessionStorage.getItem(KEY);
    const response = await fetch(path, { ...options, headers: headers(options.headers) });
    if (response.ok) return response;
    const detail = await response.json().then((body) => body.detail, () => response.statusText);
    if (response.status !== 401) throw new Refused(response.status, String(detail));
    if (sent === sessionStorage.getItem(KEY)) await askForKey(sent === null ? "" : String(detail));
  }
}

/** GET, as JSON. */
export async function get(path, signal) {
  return (await request(path, { signal, headers: { accept: "application/json" } })).json();
}

/** POST JSON; the answer as JSON, or null where there is none. */
export async function post(path, body = {}) {
  const response = await request(path, {
    method: "POST",
    headers: { "content-type": "application/json", accept: "application/json" },
    body: JSON.stringify(body),
  });
  const text = await response.text();
  return text ? JSON.parse(text) : null;
}

/**
 * The events of a run, from its start to its end, whatever breaks in between: `onEvents(list)`, in batches.
 *
 * `EventSource` cannot send a key, so the stream is read by `fetch`. It comes back to the event that was seen last.
 * `onState(text)` is told when the connection is lost ("reconnecting") and there again ("").
 */
export async function follow(runId, { onEvents, onState, signal }) {
  const path = `console/runs/${encodeURIComponent(runId)}/events`;
  let last = null;
  let failures = 0;
  while (!signal.aborted) {
    const ending = new AbortController();
    const stop = () => ending.abort();
    signal.addEventListener("abort", stop);
    try {
      const options = { signal: ending.signal, headers: { accept: "text/event-stream" } };
      if (last !== null) options.headers["last-event-id"] = last;
      const response = await request(path, options);
      onState("");
      for await (const events of parsed(response.body, () => ending.abort())) {
        failures = 0;
        for (const event of events) last = event.id ?? last;
        onEvents(events);
        if (events.at(-1)?.mode === "end") return;
      }
      // A gateway that leaves breaks its streams off; an orderly end is one behind the run's.
      return;
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Refused && ![429, 500, 502, 503, 504].includes(error.status)) throw error;
    } finally {
      signal.removeEventListener("abort", stop);
      stop();
    }
    onState("reconnecting");
    await delay(Math.min(RETRY_MS * 2 ** failures, MOST_RETRY_MS), signal);
    failures += 1;
  }
}

export function delay(ms, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });
}

/** Server-sent events in batches, as they arrive. `onSilence` is called when nothing at all has come for long. */
async function* parsed(body, onSilence) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const timer = setTimeout(onSilence, SILENCE_MS);
    const { done, value } = await reader.read().finally(() => clearTimeout(timer));
    if (done) return;
    const blocks = (rest + value).split("\r\n\r\n");
    rest = blocks.pop();
    const events = blocks.map(eventOf).filter((event) => event !== null);
    if (events.length) yield events;
  }
}

function eventOf(block) {
  const fields = {};
  for (const line of block.split("\r\n")) {
    const at = line.indexOf(": ");
    if (at > 0) fields[line.slice(0, at)] = line.slice(at + 2);
  }
  if (fields.event === undefined) return null;
  return { mode: fields.event, id: fields.id ?? null, ...JSON.parse(fields.data) };
}
