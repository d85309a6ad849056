// `useStream` of the SDK under test, mounted in a page that has no browser.

import { inspect } from "node:util";

import { Window } from "happy-dom";

import { BASE_URL, SDK, until } from "./support.mjs";

const page = new Window({ url: "http://localhost/" });
const { document, navigator } = page;
for (const [name, value] of Object.entries({ window: page, document, navigator })) {
  Object.defineProperty(globalThis, name, { value, configurable: true }); // newer Nodes have a navigator of their own
}

const { createElement, useEffect } = await import("react");
const { createRoot } = await import("react-dom/client");
const { useStream } = await import(`sdk-${SDK}/react`);

export const storage = page.sessionStorage;

/** A component that uses `useStream`; what it shows is what the hook says. */
export class Mounted {
  #root = createRoot(document.createElement("div"));
  #page;
  #options;
  #hasEffects = false;
  /** What the hook gave at the last rendering. */
  now;
  /** The contents of the messages at each rendering. */
  frames = [];
  errors = [];
  runs = [];
  /** What `onThreadId` was told. */
  threadIds = [];

  constructor(options) {
    this.#options = {
      apiUrl: BASE_URL,
      apiKey: null,
      onError: (error) => this.errors.push(error),
      onCreated: (run) => this.runs.push(run),
      onThreadId: (threadId) => this.threadIds.push(threadId),
      ...options,
    };
    this.#page = () => {
      const stream = useStream(this.#options);
      this.now = stream;
      this.frames.push(stream.messages.map((message) => message.content));
      useEffect(() => {
        this.#hasEffects = true;
      }, []);
      return null;
    };
    this.#root.render(createElement(this.#page));
  }

  /** Render again with other options. */
  change(options) {
    this.#options = { ...this.#options, ...options };
    this.#root.render(createElement(this.#page, { turn: this.frames.length }));
  }

  get texts() {
    return this.now.messages.map((message) => message.content);
  }

  /** Wait until a rendering is as wanted. */
  async shows(condition, what) {
    try {
      await until(() => this.now && condition(this.now), `the hook shows ${what ?? condition}`);
    } catch (error) {
      const { isLoading, isThreadLoading } = this.now;
      const shown = { isLoading, isThreadLoading, error: this.now.error, texts: this.texts, errors: this.errors };
      throw new Error(`${error.message}; it shows ${inspect(shown)}`);
    }
  }

  /** Wait until nothing is on its way any more. */
  async settled() {
    // A hook that is used before React has run its first effects takes its new thread for another one's.
    await this.shows((now) => this.#hasEffects && !now.isLoading && !now.isThreadLoading, "that nothing is on its way");
  }

  unmount() {
    this.#root.unmount();
  }
}

/** A `fetch` that can be ended with all that it has begun, and gives no answer any more, as when a page is left. */
export function leavable() {
  const left = new AbortController();
  const fetchUntilLeft = (url, init) => {
    if (left.signal.aborted) return new Promise(() => {});
    const signals = [left.signal, init?.signal].filter(Boolean);
    return fetch(url, { ...init, signal: AbortSignal.any(signals) });
  };
  return { callerOptions: { fetch: fetchUntilLeft }, leave: () => left.abort() };
}
