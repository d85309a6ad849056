// Streams: every mode, subgraphs, joining from any place, and a connection that breaks in the middle.

import assert from "node:assert/strict";
import { describe, test } from "node:test";

import {
  Cable,
  NOWHERE,
  OFFICIAL,
  SDK,
  UUID,
  collect,
  makeClient,
  names,
  refused,
  say,
  texts,
  until,
  withoutEnd,
} from "./support.mjs";

const client = makeClient();

async function newThread() {
  return (await client.threads.create()).thread_id;
}

/** Stream a run on a new thread; its parts. */
async function run(graph, payload) {
  return withoutEnd(await collect(client.runs.stream(await newThread(), graph, payload)));
}

/** The state of a thread as the last `values` event should have told it. */
async function saved(threadId) {
  return (await client.threads.getState(threadId)).values;
}

// --- modes ----------------------------------------------------------------------------------------------------------

test("without a mode there are values; first comes what run it is", async () => {
  const threadId = await newThread();
  const parts = withoutEnd(await collect(client.runs.stream(threadId, "chat", { input: say("hi") })));
  assert.equal(parts[0].event, "metadata");
  assert.match(parts[0].data.run_id, UUID);
  assert.equal(parts[0].data.attempt, 1);
  assert.deepEqual(names(parts), ["metadata", "values"]);
  assert.deepEqual(parts.at(-1).data, await saved(threadId));
});

test("updates", async () => {
  const parts = await run("parallel", { input: {}, streamMode: "updates" });
  assert.deepEqual(names(parts), ["metadata", "updates"]);
  const updates = parts.slice(1).map((part) => part.data);
  assert.deepEqual(updates.at(-1), { joined: { steps: ["joined"] } });
  assert.deepEqual(updates.slice(0, 2).flatMap((update) => Object.keys(update)).sort(), ["left", "right"]);
});

test("messages-tuple: chunks whose sum is the message", async () => {
  const threadId = await newThread();
  const stream = client.runs.stream(threadId, "chat", { input: say("one two three"), streamMode: ["messages-tuple"] });
  const parts = withoutEnd(await collect(stream));
  assert.deepEqual(names(parts), ["metadata", "messages"]);
  const chunks = parts.slice(1);
  assert.ok(chunks.length > 3);
  const { messages } = await saved(threadId);
  for (const { data } of chunks) {
    const [message, metadata] = data;
    assert.equal(message.type, "AIMessageChunk");
    assert.equal(message.id, messages[1].id);
    assert.equal(metadata.langgraph_node, "answer");
    assert.match(metadata.langgraph_checkpoint_ns, /^answer:/);
  }
  assert.deepEqual(texts(parts), [messages[1].content]);
});

test("messages-tuple with a tool: its call in pieces, and its answer", async () => {
  const parts = await run("agent", { input: say("look up river"), streamMode: "messages-tuple" });
  const messages = parts.slice(1).map((part) => part.data[0]);
  const call = messages.flatMap((message) => message.tool_call_chunks ?? []);
  assert.equal(call.map((chunk) => chunk.args).join(""), '{"word": "river"}');
  assert.equal(call[0].name, "lookup");
  const [answer] = messages.filter((message) => message.type === "tool");
  assert.deepEqual([answer.content, answer.tool_call_id], ["river means something", "call_1"]);
  assert.equal(texts(parts).at(-1), "The tool said: river means something");
});

test("messages: what there is of a message so far", async () => {
  const threadId = await newThread();
  const stream = client.runs.stream(threadId, "chat", { input: say("one two"), streamMode: ["messages"] });
  const parts = withoutEnd(await collect(stream));
  const { messages } = await saved(threadId);
  const metadata = parts.filter((part) => part.event === "messages/metadata");
  assert.deepEqual(metadata.map((part) => Object.keys(part.data)), [[messages[1].id]]);
  assert.equal(metadata[0].data[messages[1].id].metadata.langgraph_node, "answer");
  const partial = parts.filter((part) => part.event === "messages/partial").map((part) => part.data[0]);
  assert.ok(partial.every((message) => message.id === messages[1].id && message.type === "ai"));
  assert.equal(partial[0].content, "You");
  assert.equal(partial.at(-1).content, "You said: one two");
  for (const [place, message] of partial.entries()) {
    assert.ok(place === 0 || message.content.startsWith(partial[place - 1].content));
  }
});

test("custom, tasks, checkpoints and debug", async () => {
  const parts = await run("slow", {
    input: { ticks: 2, delay: 0.01 },
    streamMode: ["custom", "tasks", "checkpoints", "debug"],
  });
  assert.deepEqual(names(parts).sort(), ["checkpoints", "custom", "debug", "metadata", "tasks"]);
  const of = (event) => parts.filter((part) => part.event === event).map((part) => part.data);
  assert.deepEqual(of("custom"), [{ tick: 0 }, { tick: 1 }]);
  const begun = of("tasks").filter((task) => "input" in task);
  assert.deepEqual(begun.map((task) => task.name), ["begin", "tick", "finish"]);
  assert.deepEqual(of("checkpoints").at(-1).values.steps, ["begin", "tick", "finish"]);
  assert.deepEqual([...new Set(of("debug").map((one) => one.type))].sort(), ["checkpoint", "task", "task_result"]);
});

test("events", async () => {
  const parts = await run("chat", { input: say("hi"), streamMode: "events" });
  const events = parts.filter((part) => part.event === "events").map((part) => part.data);
  const kinds = new Set(events.map((event) => event.event));
  for (const kind of ["on_chain_start", "on_chat_model_start", "on_chat_model_stream", "on_chain_end"]) {
    assert.ok(kinds.has(kind), kind);
  }
  const chunks = events.filter((event) => event.event === "on_chat_model_stream").map((event) => event.data.chunk);
  assert.equal(chunks.map((chunk) => chunk.content).join(""), "You said: hi");
});

test("several modes at once, in the order in which things happen", async () => {
  const streamMode = ["values", "updates", "messages-tuple", "custom"];
  const parts = await run("parent", { input: {}, streamMode });
  assert.deepEqual(names(parts).toSorted(), ["messages", "metadata", "updates", "values"]);
  const place = (event, key) => parts.findIndex((part) => part.event === event && (!key || key in part.data));
  assert.ok(place("messages") < place("updates", "child"));
  assert.ok(place("updates", "child") < place("updates", "outer"));
});

test("subgraphs say where they are", async () => {
  const streamMode = ["values", "updates", "custom", "messages-tuple"];
  const threadId = await newThread();
  const stream = client.runs.stream(threadId, "parent", { input: {}, streamMode, streamSubgraphs: true });
  const parts = withoutEnd(await collect(stream));
  const inside = parts.filter((part) => part.event.includes("|"));
  for (const mode of ["updates", "custom", "values", "messages"]) {
    const part = inside.find((one) => one.event.startsWith(`${mode}|`));
    assert.match(part?.event ?? "", /\|child:[0-9a-f-]{36}$/, mode);
  }
  const values = parts.filter((part) => part.event === "values");
  assert.deepEqual(values.at(-1).data, await saved(threadId));
});

test("an interrupt is told in the values, and in the updates", async () => {
  const threadId = await newThread();
  const stream = client.runs.stream(threadId, "approval", { input: {}, streamMode: ["values", "updates"] });
  const parts = withoutEnd(await collect(stream));
  const [interrupt] = parts.findLast((part) => part.event === "updates").data.__interrupt__;
  assert.deepEqual(interrupt.value, { question: "go on?" });
  const told = parts.findLast((part) => part.event === "values").data.__interrupt__;
  assert.deepEqual(told, [interrupt]);
  const resumed = client.runs.stream(threadId, "approval", { command: { resume: "yes" }, streamMode: "values" });
  const after = withoutEnd(await collect(resumed));
  assert.deepEqual(after.at(-1).data.steps, ["plan", "answer: yes", "act"]);
});

test("an interrupt is told to who asked for messages only", { skip: OFFICIAL && "it does not tell" }, async () => {
  const parts = await run("approval", { input: {}, streamMode: ["messages-tuple"] });
  assert.ok(JSON.stringify(parts).includes("go on?"), JSON.stringify(parts));
});

test("what the graph raises is the last event", async () => {
  const threadId = await newThread();
  const stream = client.runs.stream(threadId, "failing", { input: {}, streamMode: "values" });
  const parts = withoutEnd(await collect(stream));
  assert.equal(parts.at(-1).event, "error");
  assert.deepEqual(parts.at(-1).data, { error: "ValueError", message: "boom" });
  const [listed] = await client.runs.list(threadId);
  assert.equal(listed.status, "error");
});

test("a run without a thread is streamed", async () => {
  const runs = [];
  const stream = client.runs.stream(null, "chat", { input: say("hi"), onRunCreated: (made) => runs.push(made) });
  const parts = withoutEnd(await collect(stream));
  assert.equal(parts.at(-1).data.messages.at(-1).content, "You said: hi");
  assert.equal(runs.length, 1);
  assert.equal(runs[0].run_id, parts[0].data.run_id);
});

test("a stream that is aborted ends, and its run goes on", async () => {
  const threadId = await newThread();
  const controller = new AbortController();
  const { signal } = controller;
  const payload = { input: { ticks: 5, delay: 0.05 }, streamMode: "custom", signal, onDisconnect: "continue" };
  let runId;
  await assert.rejects(async () => {
    for await (const { event, data } of client.runs.stream(threadId, "slow", payload)) {
      if (event === "metadata") runId = data.run_id;
      if (event === "custom") controller.abort();
    }
    throw new DOMException("ended", "AbortError"); // some versions end instead of raising
  }, /Abort|abort|ended/);
  assert.deepEqual((await client.runs.join(threadId, runId)).steps, ["begin", "tick", "finish"]);
});

test("a run whose only reader leaves is interrupted, where that is asked for", async () => {
  const threadId = await newThread();
  const controller = new AbortController();
  const { signal } = controller;
  const payload = { input: { ticks: 10_000, delay: 0.02 }, streamMode: "custom", signal, onDisconnect: "cancel" };
  let runId;
  try {
    for await (const { event, data } of client.runs.stream(threadId, "slow", payload)) {
      if (event === "metadata") runId = data.run_id;
      if (event === "custom") controller.abort();
    }
  } catch (error) {
    assert.equal(error.name, "AbortError");
  }
  await until(async () => (await client.runs.get(threadId, runId)).status === "interrupted", "it is interrupted");
});

test("a run that is cancelled ends its stream without an error", async () => {
  const threadId = await newThread();
  const parts = [];
  const payload = { input: { ticks: 10_000, delay: 0.02 }, streamMode: ["custom", "values"] };
  for await (const part of client.runs.stream(threadId, "slow", payload)) {
    parts.push(part);
    if (part.event === "custom" && part.data.tick === 2) await client.runs.cancel(threadId, parts[0].data.run_id);
  }
  assert.ok(!names(parts).includes("error"), JSON.stringify(parts.at(-1)));
  assert.equal((await client.runs.get(threadId, parts[0].data.run_id)).status, "interrupted");
});

// --- joining --------------------------------------------------------------------------------------------------------

/** Start a run that goes on for a while. */
async function begin(words = 40, delay = 0.02, streamMode = ["messages-tuple", "values"]) {
  const threadId = await newThread();
  const input = { ...say("go"), words, delay };
  const made = await client.runs.create(threadId, "tale", { input, streamMode, streamResumable: true });
  return { threadId, runId: made.run_id };
}

const FROM_START = { lastEventId: "-1" };

describe("joining", { concurrency: 8 }, () => {
  test("joined from the start while it runs, and after its end: the same, and all of it", async () => {
    const { threadId, runId } = await begin();
    const running = await collect(client.runs.joinStream(threadId, runId, FROM_START));
    const ended = await collect(client.runs.joinStream(threadId, runId, FROM_START));
    assert.deepEqual(ended, running);
    assert.equal(running[0].event, "metadata");
    const { messages } = await saved(threadId);
    assert.deepEqual(texts(running), [messages[1].content, messages[2].content]);
    if (OFFICIAL) return; // its ids repeat
    const ids = running.map((part) => part.id);
    assert.equal(new Set(ids).size, ids.length);
  });

  test("joined after any event: what follows, once", { skip: OFFICIAL && "its ids repeat" }, async () => {
    const { threadId, runId } = await begin(10, 0.001);
    const all = await collect(client.runs.joinStream(threadId, runId, FROM_START));
    for (const place of [0, 1, 7, all.length - 2]) {
      const rest = await collect(client.runs.joinStream(threadId, runId, { lastEventId: all[place].id }));
      assert.deepEqual(rest, all.slice(place + 1), `after ${all[place].id}`);
    }
    for (const lastEventId of ["-", "0", "0-0"]) {
      assert.deepEqual(await collect(client.runs.joinStream(threadId, runId, { lastEventId })), all, lastEventId);
    }
  });

  test("ten readers that come at ten moments have the same", { skip: OFFICIAL && "its ids repeat" }, async () => {
    const { threadId, runId } = await begin();
    const readers = [];
    for (let number = 0; number < 10; number += 1) {
      readers.push(collect(makeClient().runs.joinStream(threadId, runId, FROM_START)));
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    const [first, ...others] = await Promise.all(readers);
    for (const other of others) assert.deepEqual(other, first);
  });

  test("joined without a place: what comes from now on", async () => {
    const { threadId, runId } = await begin(30, 0.05);
    for await (const { event } of client.runs.joinStream(threadId, runId, FROM_START)) {
      if (event === "messages") break;
    }
    const rest = withoutEnd(await collect(client.runs.joinStream(threadId, runId)));
    const { messages } = await saved(threadId);
    const [first, second] = texts(rest);
    assert.ok(messages[1].content.endsWith(first) && first.length < messages[1].content.length);
    assert.equal(second, messages[2].content);
    const after = withoutEnd(await collect(client.runs.joinStream(threadId, runId)));
    assert.deepEqual(after, []);
  });

  test("joined with some of the modes", async () => {
    const { threadId, runId } = await begin(5, 0.01, ["messages-tuple", "values", "updates"]);
    const only = async (streamMode) =>
      names(await collect(client.runs.joinStream(threadId, runId, { ...FROM_START, streamMode })))
        .filter((name) => name !== "metadata");
    assert.deepEqual(await only("values"), ["values"]);
    assert.deepEqual(await only(["updates"]), ["updates"]);
    if (!OFFICIAL) assert.deepEqual((await only(["values", "updates"])).sort(), ["updates", "values"]);
  });

  test("a run without a thread is joined by its id alone", {
    skip: OFFICIAL && "it has no such route",
  }, async () => {
    let runId;
    const payload = { input: { ...say("go"), words: 5 }, onRunCreated: (run) => (runId = run.run_id) };
    const all = await collect(client.runs.stream(null, "tale", payload));
    assert.deepEqual(await collect(client.runs.joinStream(null, runId, FROM_START)), all);
    const rest = await collect(client.runs.joinStream(null, runId, { lastEventId: all[1].id }));
    assert.deepEqual(rest, all.slice(2));
  });

  test("a run that says nothing for a while: what keeps its connections is no event", {
    skip: OFFICIAL && SDK !== "1.15" && "its comments are events to older clients",
  }, async () => {
    const payload = { input: { ticks: 1, delay: 6 }, streamMode: ["custom", "values"], streamResumable: true };
    const parts = await collect(client.runs.stream(await newThread(), "slow", payload));
    assert.deepEqual(names(parts), ["metadata", "values", "custom"]);
  });

  test("a run that is not there cannot be joined", async () => {
    const threadId = await newThread();
    try {
      const parts = withoutEnd(await collect(client.runs.joinStream(threadId, NOWHERE, FROM_START)));
      assert.deepEqual(names(parts), ["error"]);
      assert.match(parts[0].data.message, /not found/i);
    } catch (error) {
      assert.equal(error.status, 404, String(error));
    }
  });

  test("the stream of a thread tells of its runs", { skip: !client.threads.joinStream && "no such call" }, async () => {
    const threadId = await newThread();
    const controller = new AbortController();
    const seen = [];
    const reading = (async () => {
      const stream = client.threads.joinStream(threadId, { signal: controller.signal, lastEventId: "-" });
      for await (const part of stream) seen.push(part);
    })().catch((error) => assert.match(error.name, /Abort/));
    await client.runs.wait(threadId, "chat", { input: say("one") });
    const payload = { input: say("two"), streamMode: "values", streamResumable: true };
    await collect(client.runs.stream(threadId, "chat", payload));
    await until(() => JSON.stringify(seen).includes("You said: two"), "the second run is told of");
    await until(() => seen.some((part) => part.data?.status === "run_done"), "an end is told of");
    controller.abort();
    await reading;
  });
});

// --- reconnecting ---------------------------------------------------------------------------------------------------

describe("reconnecting", { concurrency: 8 }, () => {
  /** Reads a stream through a cable that is cut whenever so many parts more have come by it; the parts. */
  async function readCutting(cable, stream, every) {
    const parts = [];
    let [cuts, next] = [0, every];
    for await (const part of stream) {
      parts.push(part);
      if (parts.length >= next && cable.live && cuts < 3) {
        cable.cut();
        cuts += 1;
        next = parts.length + every;
      }
    }
    assert.ok(cuts >= 2, `cut ${cuts} times in ${parts.length} parts`);
    return parts;
  }

  test("a connection that breaks in the middle: every event once", { skip: OFFICIAL && "its ids repeat" }, async () => {
    const cable = await Cable.open();
    try {
      const threadId = await newThread();
      const payload = {
        input: { ...say("go"), words: 60, delay: 0.05 },
        streamMode: ["values", "messages-tuple", "updates"],
        streamResumable: true,
      };
      const parts = await readCutting(cable, makeClient(cable.url).runs.stream(threadId, "tale", payload), 4);
      const { run_id: runId } = parts[0].data;
      const all = await collect(client.runs.joinStream(threadId, runId, FROM_START));
      assert.deepEqual(parts.map((part) => [part.id, part.event]), all.map((part) => [part.id, part.event]));
      assert.deepEqual(parts, all);
      assert.deepEqual(parts.findLast((part) => part.event === "values").data, await saved(threadId));
    } finally {
      await cable.close();
    }
  });

  test("a join that breaks in the middle: every event once, from where it began", {
    skip: OFFICIAL && "its ids repeat",
  }, async () => {
    const { threadId, runId } = await begin(60, 0.05);
    const cable = await Cable.open();
    try {
      const options = { ...FROM_START, streamMode: ["messages-tuple"] };
      const parts = await readCutting(cable, makeClient(cable.url).runs.joinStream(threadId, runId, options), 4);
      assert.deepEqual(parts, await collect(client.runs.joinStream(threadId, runId, options)));
    } finally {
      await cable.close();
    }
  });

  test("a stateless stream that breaks in the middle: every event once", {
    skip: OFFICIAL && "the address that it gives does not exist",
  }, async () => {
    const cable = await Cable.open();
    try {
      const payload = { input: { ...say("go"), words: 50, delay: 0.05 }, streamMode: ["values", "messages-tuple"] };
      const parts = await readCutting(cable, makeClient(cable.url).runs.stream(null, "tale", payload), 4);
      const last = parts.findLast((part) => part.event === "values").data;
      assert.deepEqual(texts(parts), [last.messages[1].content, last.messages[2].content]);
      const ids = parts.map((part) => part.id);
      assert.equal(new Set(ids).size, ids.length);
    } finally {
      await cable.close();
    }
  });

  test("a refusal is not a broken connection", async () => {
    const cable = await Cable.open();
    try {
      await refused(collect(makeClient(cable.url).runs.stream(NOWHERE, "chat", { input: say("x") })), 404);
      assert.equal(cable.connections, 1);
    } finally {
      await cable.close();
    }
  });
});
