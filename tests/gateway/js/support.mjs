// What every script stands on: the server's address, the SDK under test, waiting for facts, and a connection to cut.

import assert from "node:assert/strict";
import net from "node:net";

/** The server under test. */
export const BASE_URL = process.env.LANGGRAPH_TEST_URL ?? "http://127.0.0.1:2024";

/** Which of the SDKs of package.json is under test. */
export const SDK = process.env.LANGGRAPH_TEST_SDK ?? "1.15";

/** Whether the server is LangGraph's own, which is known to be wrong in some places. */
export const OFFICIAL = process.env.LANGGRAPH_TEST_OFFICIAL === "1";

export const { Client } = await import(`sdk-${SDK}`);

export const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;
export const NOWHERE = "00000000-0000-4000-8000-000000000000";

export function makeClient(apiUrl = BASE_URL) {
  return new Client({ apiUrl, apiKey: null });
}

/** A message from a human. */
export function say(content) {
  return { messages: [{ type: "human", content }] };
}

/** Wait until `condition()` gives something true, and give it. */
export async function until(condition, what = String(condition), seconds = 30) {
  const deadline = Date.now() + seconds * 1000;
  for (;;) {
    const answer = await condition();
    if (answer) return answer;
    if (Date.now() > deadline) throw new Error(`not within ${seconds} s: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** All parts of a stream. */
export async function collect(stream) {
  const parts = [];
  for await (const part of stream) parts.push(part);
  return parts;
}

/** Parts without the `end` event, which not every server sends and every client leaves alone. */
export function withoutEnd(parts) {
  return parts.filter((part) => part.event !== "end");
}

/** The names of the events of a stream, each once, without the namespaces of subgraphs. */
export function names(parts) {
  return [...new Set(withoutEnd(parts).map((part) => part.event.split("|")[0]))];
}

/** The text that the AI message chunks of a stream in the mode `messages-tuple` make up, by message. */
export function texts(parts) {
  const said = new Map();
  for (const { event, data } of parts) {
    if (event.split("|")[0] !== "messages") continue;
    const [message] = data;
    said.set(message.id, (said.get(message.id) ?? "") + message.content);
  }
  return [...said.values()];
}

/** Await a rejection that is an HTTP error with this status, and give it. */
export async function refused(promise, status) {
  let error;
  try {
    await promise;
  } catch (caught) {
    error = caught;
  }
  assert.ok(error, `nothing was thrown instead of HTTP ${status}`);
  assert.equal(error.status, status, error.message);
  assert.match(error.message, new RegExp(`^HTTP ${status}: `));
  if (!OFFICIAL) assert.ok(JSON.parse(error.text).detail, `no detail: ${error.text}`);
  return error;
}

/** A way to the server whose connections can be cut. */
export class Cable {
  #server;
  #pairs = new Set();
  connections = 0;

  static async open(target = BASE_URL) {
    const { hostname, port } = new URL(target);
    const cable = new Cable();
    cable.#server = net.createServer((near) => {
      cable.connections += 1;
      const far = net.connect({ host: hostname, port: Number(port) });
      const pair = [near, far];
      cable.#pairs.add(pair);
      const over = () => {
        near.destroy();
        far.destroy();
        cable.#pairs.delete(pair);
      };
      for (const socket of pair) socket.on("error", over).on("close", over);
      near.pipe(far);
      far.pipe(near);
    });
    await new Promise((resolve) => cable.#server.listen(0, "127.0.0.1", resolve));
    return cable;
  }

  get url() {
    return `http://127.0.0.1:${this.#server.address().port}`;
  }

  /** How many connections there are. */
  get live() {
    return this.#pairs.size;
  }

  /** Cut every connection that there is. */
  cut() {
    for (const pair of [...this.#pairs]) {
      const [near, far] = pair;
      near.resetAndDestroy();
      far.destroy();
      this.#pairs.delete(pair);
    }
  }

  async close() {
    this.cut();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}
