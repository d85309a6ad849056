// What Agent Chat UI sends, request by request: when it starts, and for one whole conversation.
//
// Its own code: GET /info on start, POST /threads/search for the list of threads, and `useStream` with
// `fetchStateHistory` for the conversation, whose options to `submit` are those below.

import assert from "node:assert/strict";
import { after, test } from "node:test";

import { Mounted, storage } from "./hook.mjs";
import { BASE_URL, OFFICIAL, UUID, say } from "./support.mjs";

const ORIGIN = "http://localhost:3000";
const HEADERS = { "x-api-key": "any", "content-type": "application/json", origin: ORIGIN };
const MODES = ["values", "messages-tuple"];
const SUBMITTED = { stream_mode: MODES, stream_subgraphs: true, stream_resumable: true, on_disconnect: "continue" };

async function call(method, path, body) {
  const answer = await fetch(`${BASE_URL}${path}`, { method, headers: HEADERS, body: body && JSON.stringify(body) });
  assert.ok(answer.ok, `${method} ${path}: ${answer.status} ${await answer.clone().text()}`);
  const allowed = answer.headers.get("access-control-allow-origin");
  assert.ok(["*", ORIGIN].includes(allowed), `${method} ${path} allows the origin ${allowed}`);
  return answer;
}

/** The events of a stream as they are on the wire. */
async function frames(answer) {
  assert.match(answer.headers.get("content-type"), /^text\/event-stream/);
  const text = (await answer.text()).replace(/^:.*\r\n/gm, "");
  const blocks = text.split("\r\n\r\n").filter((block) => block.trim());
  return blocks.map((block) => {
    const fields = Object.fromEntries(block.trim().split("\r\n").map((line) => line.split(/: (.*)/s).slice(0, 2)));
    return { event: fields.event, id: fields.id, data: JSON.parse(fields.data) };
  });
}

test("a browser may call: the answer to its preflight", async () => {
  const asked = "content-type,x-api-key,authorization,last-event-id,cache-control,prefer";
  const calls = [["POST", "/threads"], ["GET", "/info"], ["PATCH", "/threads/x"], ["DELETE", "/threads/x"]];
  for (const [method, path] of calls) {
    const answer = await fetch(`${BASE_URL}${path}`, {
      method: "OPTIONS",
      headers: { origin: ORIGIN, "access-control-request-method": method, "access-control-request-headers": asked },
    });
    assert.ok(answer.ok, `${method} ${path}: ${answer.status}`);
    const headers = (answer.headers.get("access-control-allow-headers") ?? "").toLowerCase();
    for (const name of asked.split(",")) assert.ok(headers === "*" || headers.includes(name), `${name} in ${headers}`);
    const methods = answer.headers.get("access-control-allow-methods");
    assert.ok(methods === "*" || methods.includes(method), `${method} in ${methods}`);
  }
});

test("the server is asked who it is", async () => {
  const info = await (await call("GET", "/info")).json();
  assert.equal(typeof info.version, "string");
  assert.equal(info.flags.assistants, true);
});

test("one conversation, from its requests", async () => {
  const newest = async () => {
    const byGraph = { metadata: { graph_id: "agent" }, limit: 100 };
    return (await (await call("POST", "/threads/search", byGraph)).json())[0];
  };
  const before = await newest();

  // The first message: a thread of its own, made by the hook.
  const { thread_id: threadId } = await (await call("POST", "/threads", { metadata: {} })).json();
  assert.match(threadId, UUID);
  const content = [{ type: "text", text: "look up river" }];
  const started = await call("POST", `/threads/${threadId}/runs/stream`, {
    ...SUBMITTED,
    assistant_id: "agent",
    input: { messages: [{ id: crypto.randomUUID(), type: "human", content }] },
  });
  const place = started.headers.get("content-location");
  assert.match(place, new RegExp(`^/threads/${threadId}/runs/[0-9a-f-]{36}$`));
  const exposed = started.headers.get("access-control-expose-headers").toLowerCase().split(/, */);
  assert.ok(exposed.includes("content-location"));
  // Without it a browser cannot come back to a stream that has broken off; LangGraph's server does not think of it.
  if (!OFFICIAL) assert.ok(exposed.includes("location"));
  const sent = await frames(started);
  assert.equal(sent[0].event, "metadata");
  assert.equal(sent[0].data.run_id, place.split("/").at(-1));
  for (const name of ["values", "messages"]) assert.ok(sent.some((one) => one.event === name), name);
  const told = sent.findLast((one) => one.event === "values").data;

  // Then its history, and the list of threads, in which it is now the newest.
  const history = await (await call("POST", `/threads/${threadId}/history`, { limit: 10 })).json();
  assert.deepEqual(history[0].values, told);
  assert.deepEqual(history[0].next, []);
  assert.deepEqual(told.messages.map((message) => message.type), ["human", "ai", "tool", "ai"]);
  const listed = await newest();
  assert.equal(listed.thread_id, threadId);
  assert.notEqual(listed.thread_id, before?.thread_id);
  assert.equal(listed.metadata.graph_id, "agent");
  assert.equal(listed.values.messages.length, 4); // the list shows the first message as the thread's title
  const { assistant_id: assistantId } = listed.metadata;
  const byAssistant = { metadata: { assistant_id: assistantId }, limit: 100 };
  const alsoListed = await (await call("POST", "/threads/search", byAssistant)).json();
  assert.equal(alsoListed[0].thread_id, threadId);

  // A second message goes on from the newest state, which the hook names.
  const { thread_id: _, ...checkpoint } = history[0].checkpoint;
  const second = await call("POST", `/threads/${threadId}/runs/stream`, {
    ...SUBMITTED,
    assistant_id: assistantId,
    checkpoint,
    input: { messages: [...say("hello").messages] },
  });
  const after = (await frames(second)).findLast((one) => one.event === "values").data;
  assert.deepEqual(after.messages.map((message) => message.type), ["human", "ai", "tool", "ai", "human", "ai"]);

  // The answer is made again: no input, from the checkpoint before it.
  const states = await (await call("POST", `/threads/${threadId}/history`, { limit: 10 })).json();
  const seen = states.findLast((state) => state.values.messages?.length === 6);
  const { thread_id: __, ...parent } = seen.parent_checkpoint;
  const again = await call("POST", `/threads/${threadId}/runs/stream`, {
    ...SUBMITTED,
    assistant_id: assistantId,
    checkpoint: parent,
  });
  const anew = (await frames(again)).findLast((one) => one.event === "values").data;
  assert.deepEqual(anew.messages.slice(0, 5), after.messages.slice(0, 5));
  assert.equal(anew.messages[5].content, after.messages[5].content);
  assert.notEqual(anew.messages[5].id, after.messages[5].id);

  // The thread is opened again.
  const opened = await (await call("POST", `/threads/${threadId}/history`, { limit: 10 })).json();
  assert.deepEqual(opened[0].values, anew);
});

test("a question and its answer, from their requests", async () => {
  const { thread_id: threadId } = await (await call("POST", "/threads", { metadata: {} })).json();
  const run = async (body) =>
    frames(await call("POST", `/threads/${threadId}/runs/stream`, { ...SUBMITTED, assistant_id: "tale", ...body }));
  const asked = await run({ input: { ...say("go"), ask: true } });
  const interrupts = asked.findLast((one) => one.event === "values").data.__interrupt__;
  assert.deepEqual(interrupts.map((one) => one.value), [{ question: "go on?" }]);
  const [head] = await (await call("POST", `/threads/${threadId}/history`, { limit: 10 })).json();
  assert.deepEqual(head.tasks[0].interrupts.map((one) => one.id), [interrupts[0].id]);
  const { thread_id: _, ...checkpoint } = head.checkpoint;
  const resumed = await run({ command: { resume: "yes" }, checkpoint });
  const { messages } = resumed.findLast((one) => one.event === "values").data;
  assert.deepEqual(messages.map((message) => message.content), ["go", "a0 a1 a2 a3 a4 ", "yes", "b0 b1 b2 b3 b4 "]);
  const thread = await (await call("GET", `/threads/${threadId}`)).json();
  assert.equal(thread.status, "idle");
});

test("the same through its hook, with its options", async () => {
  // It keeps the thread's id in the address, and gives it to the hook from there.
  const onThreadId = (threadId) => page.change({ threadId });
  const page = new Mounted({ assistantId: "agent", threadId: null, fetchStateHistory: true, onThreadId });
  after(() => page.unmount());
  await page.settled();
  const options = {
    streamMode: ["values"],
    streamSubgraphs: true,
    streamResumable: true,
    onDisconnect: "continue",
  };
  await page.now.submit(say("look up river"), options);
  await page.shows((now) => !now.isLoading && now.messages.length === 4, "the messages");
  assert.deepEqual(page.now.messages.map((message) => message.type), ["human", "ai", "tool", "ai"]);
  const answer = page.now.messages[3];
  const { parent_checkpoint: checkpoint } = page.now.getMessagesMetadata(answer, 3).firstSeenState;
  await page.now.submit(undefined, { ...options, checkpoint });
  await page.settled();
  assert.notEqual(page.now.messages[3].id, answer.id);
  assert.equal(page.now.messages[3].content, answer.content);
  assert.deepEqual(page.errors, []);
  assert.equal(storage.length, 0);
});
