// The calls of the SDK that are a request and an answer: assistants, threads, runs, and what they refuse.

import assert from "node:assert/strict";
import { test } from "node:test";

import { BASE_URL, NOWHERE, OFFICIAL, SDK, UUID, collect, makeClient, refused, say, until } from "./support.mjs";

const client = makeClient();

async function systemAssistant(graphId) {
  const [assistant] = await client.assistants.search({ graphId, metadata: { created_by: "system" } });
  return assistant;
}

// --- assistants -----------------------------------------------------------------------------------------------------

test("every graph has an assistant, and it is found", async () => {
  // Other tests make assistants of their own on the same server.
  const metadata = { created_by: "system" };
  const all = await client.assistants.search({ metadata, limit: 100 });
  for (const graphId of ["chat", "agent", "approval", "parent", "tale"]) {
    const found = all.filter((one) => one.graph_id === graphId);
    assert.equal(found.length, 1, graphId);
    const [assistant] = found;
    assert.match(assistant.assistant_id, UUID);
    assert.equal(assistant.version, 1);
    assert.deepEqual(assistant.metadata, { created_by: "system" });
    assert.deepEqual(await client.assistants.get(assistant.assistant_id), assistant);
  }
  const first = await client.assistants.search({ metadata, limit: 2, offset: 0 });
  const second = await client.assistants.search({ metadata, limit: 2, offset: 2 });
  assert.equal(new Set([...first, ...second].map((one) => one.assistant_id)).size, 4);
  const page = await client.assistants.search({ metadata, limit: 2, includePagination: true });
  assert.deepEqual(page.assistants, first);
  assert.equal(page.next, "2");
  if (client.assistants.count) assert.equal(await client.assistants.count({ graphId: "chat", metadata }), 1);
});

test("the graph of an assistant, by its id and by its name, and what is inside", async () => {
  const { assistant_id: id } = await systemAssistant("parent");
  const graph = await client.assistants.getGraph(id);
  assert.deepEqual(graph.nodes.map((node) => node.id).sort(), ["__end__", "__start__", "child", "outer"]);
  assert.ok(graph.edges.some((edge) => edge.source === "child" && edge.target === "outer"));
  assert.deepEqual(await client.assistants.getGraph("parent"), graph);
  const inside = await client.assistants.getGraph(id, { xray: true });
  assert.ok(inside.nodes.some((node) => node.id.includes("inner")));
  const subgraphs = await client.assistants.getSubgraphs(id);
  assert.deepEqual(Object.keys(subgraphs), ["child"]);
});

test("the schemas of an assistant", async () => {
  const { assistant_id: id } = await systemAssistant("contextual");
  const schemas = await client.assistants.getSchemas(id);
  assert.equal(schemas.graph_id, "contextual");
  assert.deepEqual(Object.keys(schemas.input_schema.properties), ["place"]);
  assert.ok("greeting" in schemas.state_schema.properties);
  assert.ok("greeting" in schemas.output_schema.properties);
  assert.deepEqual(Object.keys(schemas.context_schema.properties), ["name"]);
});

test("assistants of one's own: created, run, changed, versions, deleted", async () => {
  const made = await client.assistants.create({
    graphId: "contextual",
    name: "Ann's",
    context: { name: "Ann" },
    metadata: { owner: "ann" },
  });
  assert.equal(made.version, 1);
  const hello = await client.runs.wait(null, made.assistant_id, { input: { place: "here" } });
  assert.equal(hello.greeting, "hello Ann");
  const changed = await client.assistants.update(made.assistant_id, { graphId: "contextual", context: { name: "Bo" } });
  assert.equal(changed.version, 2);
  assert.equal((await client.runs.wait(null, made.assistant_id, { input: { place: "here" } })).greeting, "hello Bo");
  const versions = await client.assistants.getVersions(made.assistant_id);
  assert.deepEqual(versions.map((one) => one.version), [2, 1]);
  assert.equal((await client.assistants.setLatest(made.assistant_id, 1)).version, 1);
  assert.deepEqual((await client.assistants.search({ metadata: { owner: "ann" } })).length, 1);
  await client.assistants.delete(made.assistant_id);
  await refused(client.assistants.get(made.assistant_id), 404);
});

// --- threads --------------------------------------------------------------------------------------------------------

test("a thread is created, read, changed, found and deleted", async () => {
  const mark = crypto.randomUUID();
  const thread = await client.threads.create({ metadata: { mark, colour: "red" } });
  assert.match(thread.thread_id, UUID);
  assert.equal(thread.status, "idle");
  assert.deepEqual(thread.metadata, { mark, colour: "red" });
  assert.equal((await client.threads.get(thread.thread_id)).created_at, thread.created_at);

  const changed = await client.threads.update(thread.thread_id, { metadata: { colour: "blue", size: 3 } });
  assert.deepEqual(changed.metadata, { mark, colour: "blue", size: 3 });

  const [found, ...others] = await client.threads.search({ metadata: { mark } });
  assert.equal(found.thread_id, thread.thread_id);
  assert.deepEqual(others, []);
  assert.deepEqual(await client.threads.search({ metadata: { mark }, status: "busy" }), []);
  assert.equal((await client.threads.search({ metadata: { mark }, status: "idle" })).length, 1);
  if (client.threads.count) assert.equal(await client.threads.count({ metadata: { mark } }), 1);

  assert.equal(await client.threads.delete(thread.thread_id), undefined);
  await refused(client.threads.get(thread.thread_id), 404);
  await refused(client.threads.delete(thread.thread_id), 404);
  assert.deepEqual(await client.threads.search({ metadata: { mark } }), []);
});

test("a thread with an id of one's own is made once", async () => {
  const threadId = crypto.randomUUID();
  await client.threads.create({ threadId });
  await refused(client.threads.create({ threadId }), 409);
  const again = await client.threads.create({ threadId, ifExists: "do_nothing" });
  assert.equal(again.thread_id, threadId);
});

test("threads are searched in pages, newest first", async () => {
  const mark = crypto.randomUUID();
  const made = [];
  for (let number = 0; number < 5; number += 1) {
    made.unshift((await client.threads.create({ metadata: { mark, number } })).thread_id);
  }
  const ids = async (options) =>
    (await client.threads.search({ metadata: { mark }, ...options })).map((thread) => thread.thread_id);
  assert.deepEqual(await ids({}), made);
  assert.deepEqual(await ids({ limit: 2 }), made.slice(0, 2));
  assert.deepEqual(await ids({ limit: 2, offset: 2 }), made.slice(2, 4));
  assert.deepEqual(await ids({ sortBy: "created_at", sortOrder: "asc" }), made.toReversed());
});

test("the state of a thread: before a run, after it, changed, and as it was", async () => {
  const { thread_id: threadId } = await client.threads.create();
  const empty = await client.threads.getState(threadId);
  assert.deepEqual([empty.values, empty.next, empty.tasks, empty.checkpoint], [{}, [], [], null]);

  await client.runs.wait(threadId, "chat", { input: say("one") });
  const state = await client.threads.getState(threadId);
  assert.deepEqual(state.values.messages.map((message) => message.content), ["one", "You said: one"]);
  assert.deepEqual(state.next, []);
  assert.equal(state.checkpoint.thread_id, threadId);

  const written = await client.threads.updateState(threadId, { values: say("by hand"), asNode: "__start__" });
  assert.equal(written.checkpoint.thread_id, threadId);
  const changed = await client.threads.getState(threadId);
  assert.equal(changed.values.messages.at(-1).content, "by hand");
  assert.deepEqual(changed.next, ["answer"]);
  assert.equal(changed.checkpoint.checkpoint_id, written.checkpoint.checkpoint_id);
  assert.equal(changed.parent_checkpoint.checkpoint_id, state.checkpoint.checkpoint_id);

  const asItWas = await client.threads.getState(threadId, state.checkpoint);
  assert.deepEqual(asItWas.values, state.values);
  assert.deepEqual((await client.threads.getState(threadId, state.checkpoint.checkpoint_id)).values, state.values);

  const goesOn = await client.runs.wait(threadId, "chat", { input: null });
  assert.equal(goesOn.messages.at(-1).content, "You said: by hand");
});

test("the history of a thread, newest first, in pages", async () => {
  const { thread_id: threadId } = await client.threads.create();
  await client.runs.wait(threadId, "chat", { input: say("one") });
  await client.runs.wait(threadId, "chat", { input: say("two") });
  const history = await client.threads.getHistory(threadId);
  assert.equal(history.length, 6);
  assert.equal(history[0].values.messages.length, 4);
  for (const [newer, older] of history.slice(0, -1).map((state, place) => [state, history[place + 1]])) {
    assert.equal(newer.parent_checkpoint.checkpoint_id, older.checkpoint.checkpoint_id);
  }
  const page = await client.threads.getHistory(threadId, { limit: 2 });
  assert.deepEqual(page, history.slice(0, 2));
  const before = { configurable: { ...page[1].checkpoint } };
  assert.deepEqual(await client.threads.getHistory(threadId, { limit: 2, before }), history.slice(2, 4));
  const inputs = await client.threads.getHistory(threadId, { metadata: { source: "input" } });
  assert.deepEqual(inputs.map((state) => state.metadata.step), [2, -1]);
});

test("threads are chosen by ids and values, in parts", { skip: SDK === "2.0" && "2.0.0 cannot" }, async () => {
  const { thread_id: threadId } = await client.threads.create({ metadata: { colour: "red" } });
  await client.runs.wait(threadId, "counter", { input: { count: 41 } });
  const [found] = await client.threads.search({ ids: [threadId], select: ["thread_id", "values"] });
  assert.deepEqual(Object.keys(found).toSorted(), ["thread_id", "values"]);
  assert.equal(found.values.count, 42);
  assert.deepEqual(await client.threads.search({ ids: [NOWHERE] }), []);
  const byValue = await client.threads.search({ ids: [threadId], values: { count: 42 } });
  assert.equal(byValue.length, 1);
  assert.deepEqual(await client.threads.search({ ids: [threadId], values: { count: 1 } }), []);
});

test("threads are thrown away in numbers", { skip: !client.threads.prune && "no such call" }, async () => {
  const threads = [await client.threads.create(), await client.threads.create()].map((thread) => thread.thread_id);
  const { pruned_count: pruned } = await client.threads.prune(threads);
  assert.equal(pruned, 2);
  await refused(client.threads.get(threads[0]), 404);
});

test("a thread is made with steps that it is to have taken", async () => {
  const updates = [
    { values: say("before"), asNode: "__start__" },
    { values: { messages: [{ type: "ai", content: "then" }] }, asNode: "answer" },
  ];
  const { thread_id: threadId } = await client.threads.create({
    graphId: "chat",
    supersteps: updates.map((update) => ({ updates: [update] })),
  });
  const state = await client.threads.getState(threadId);
  assert.deepEqual(state.values.messages.map((message) => message.content), ["before", "then"]);
  const values = await client.runs.wait(threadId, "chat", { input: say("now") });
  assert.equal(values.messages.length, 4);
});

test("a thread is copied, and the copy goes its own way", async () => {
  const { thread_id: threadId } = await client.threads.create({ metadata: { colour: "red" } });
  await client.runs.wait(threadId, "chat", { input: say("one") });
  const copy = await client.threads.copy(threadId);
  assert.notEqual(copy.thread_id, threadId);
  const state = await client.threads.getState(copy.thread_id);
  assert.deepEqual(state.values, (await client.threads.getState(threadId)).values);
  assert.equal((await client.threads.get(copy.thread_id)).metadata.colour, "red");
  await client.runs.wait(copy.thread_id, "chat", { input: say("two") });
  assert.equal((await client.threads.getState(copy.thread_id)).values.messages.length, 4);
  assert.equal((await client.threads.getState(threadId)).values.messages.length, 2);
});

// --- runs -----------------------------------------------------------------------------------------------------------

test("a run is created, joined, read, listed and deleted", async () => {
  const { thread_id: threadId } = await client.threads.create();
  const made = await client.runs.create(threadId, "chat", { input: say("hello"), metadata: { colour: "red" } });
  assert.match(made.run_id, UUID);
  assert.equal(made.thread_id, threadId);
  assert.equal(made.status, "pending");
  const values = await client.runs.join(threadId, made.run_id);
  assert.equal(values.messages.at(-1).content, "You said: hello");
  const run = await client.runs.get(threadId, made.run_id);
  assert.equal(run.status, "success");
  assert.equal(run.metadata.colour, "red");
  assert.equal(run.assistant_id, (await systemAssistant("chat")).assistant_id);

  const second = await client.runs.create(threadId, "chat", { input: say("again") });
  await client.runs.join(threadId, second.run_id);
  const ids = async (options) => (await client.runs.list(threadId, options)).map((one) => one.run_id);
  assert.deepEqual(await ids(), [second.run_id, made.run_id]);
  assert.deepEqual(await ids({ limit: 1 }), [second.run_id]);
  assert.deepEqual(await ids({ limit: 1, offset: 1 }), [made.run_id]);
  assert.deepEqual(await ids({ status: "success" }), [second.run_id, made.run_id]);
  assert.deepEqual(await ids({ status: "error" }), []);

  await client.runs.delete(threadId, made.run_id);
  await refused(client.runs.get(threadId, made.run_id), 404);
  assert.deepEqual(await ids(), [second.run_id]);
  const thread = await client.threads.get(threadId);
  assert.equal(thread.status, "idle");
  assert.equal(thread.metadata.graph_id, "chat");
  assert.equal(thread.values.messages.length, 4);
});

test("wait gives the final values, and raises what the graph raised", async () => {
  const { thread_id: threadId } = await client.threads.create();
  const values = await client.runs.wait(threadId, "agent", { input: say("look up river") });
  assert.deepEqual(values.messages.map((message) => message.type), ["human", "ai", "tool", "ai"]);
  assert.equal(values.messages.at(-1).content, "The tool said: river means something");
  await assert.rejects(client.runs.wait(threadId, "failing", { input: {} }), /ValueError: boom/);
  const told = await client.runs.wait(threadId, "failing", { input: {}, raiseError: false });
  assert.deepEqual(told.__error__, { error: "ValueError", message: "boom" });
  assert.equal((await client.threads.get(threadId)).status, "error");
});

test("who creates a run is told its id, streaming or waiting", async () => {
  const { thread_id: threadId } = await client.threads.create();
  const seen = [];
  const onRunCreated = (run) => seen.push(run);
  await client.runs.wait(threadId, "chat", { input: say("a"), onRunCreated });
  await collect(client.runs.stream(threadId, "chat", { input: say("b"), onRunCreated }));
  const made = await client.runs.create(threadId, "chat", { input: say("c"), onRunCreated });
  await client.runs.join(threadId, made.run_id);
  assert.equal(seen.at(-1).run_id, made.run_id);
  const listed = (await client.runs.list(threadId)).map((run) => run.run_id);
  assert.deepEqual(seen.map((run) => run.run_id), listed.toReversed());
  assert.ok(seen.every((run) => run.thread_id === threadId));
});

test("a human in the loop: what is asked is in the state, and an answer goes on", async () => {
  const { thread_id: threadId } = await client.threads.create();
  const asked = await client.runs.wait(threadId, "approval", { input: {} });
  assert.deepEqual(asked.__interrupt__.map((one) => one.value), [{ question: "go on?" }]);
  assert.equal((await client.threads.get(threadId)).status, "interrupted");
  const state = await client.threads.getState(threadId);
  assert.deepEqual(state.next, ["ask"]);
  const [interrupt] = state.tasks[0].interrupts;
  assert.deepEqual(interrupt.value, { question: "go on?" });
  assert.equal(interrupt.id, asked.__interrupt__[0].id);
  const [thread] = await client.threads.search({ ids: [threadId], status: "interrupted" });
  if (thread) assert.deepEqual(Object.values(thread.interrupts).flat().map((one) => one.id), [interrupt.id]);
  const done = await client.runs.wait(threadId, "approval", { command: { resume: "yes" } });
  assert.deepEqual(done.steps, ["plan", "answer: yes", "act"]);
  assert.equal((await client.threads.get(threadId)).status, "idle");
});

test("two questions at once are answered by their ids", async () => {
  const { thread_id: threadId } = await client.threads.create();
  const asked = await client.runs.wait(threadId, "questions", { input: {} });
  const resume = Object.fromEntries(asked.__interrupt__.map((one) => [one.id, `to ${one.value}`]));
  assert.equal(Object.keys(resume).length, 2);
  const done = await client.runs.wait(threadId, "questions", { command: { resume } });
  assert.deepEqual(done.steps.toSorted(), ["first: to first?", "second: to second?"]);
});

test("a run is cancelled: what was done stays, or is rolled back", async () => {
  const { thread_id: threadId } = await client.threads.create();
  const endless = { input: { ticks: 10_000, delay: 0.02 } };
  const started = (runId) => () =>
    client.runs.get(threadId, runId).then(async ({ status }) => {
      const { next } = await client.threads.getState(threadId);
      return status === "running" && next.includes("tick");
    });

  const first = await client.runs.create(threadId, "slow", endless);
  await until(started(first.run_id), "the first run ticks");
  await client.runs.cancel(threadId, first.run_id, true);
  assert.equal((await client.runs.get(threadId, first.run_id)).status, "interrupted");
  const kept = await client.threads.getState(threadId);
  assert.deepEqual([kept.values.steps, kept.next], [["begin"], ["tick"]]);

  const second = await client.runs.create(threadId, "slow", endless);
  await until(started(second.run_id), "the second run ticks");
  await client.runs.cancel(threadId, second.run_id, false, "rollback");
  await until(
    () => client.runs.get(threadId, second.run_id).then(() => false, (error) => error.status === 404),
    "the second run is gone",
  );
  const after = await client.threads.getState(threadId);
  assert.deepEqual(after.values.steps, ["begin"]);
  assert.equal(after.checkpoint.checkpoint_id, kept.checkpoint.checkpoint_id);
  await refused(client.runs.cancel(threadId, second.run_id), 404);
});

test("many runs are cancelled at once", { skip: SDK === "2.0" && "2.0.0 has no such call" }, async () => {
  const { thread_id: threadId } = await client.threads.create();
  const runs = [];
  for (let number = 0; number < 3; number += 1) {
    runs.push(await client.runs.create(threadId, "slow", { input: { ticks: 10_000, delay: 0.02 } }));
  }
  await client.runs.cancelMany({ threadId, runIds: runs.map((run) => run.run_id) });
  const statuses = async () => (await client.runs.list(threadId)).map((run) => run.status);
  await until(async () => (await statuses()).every((status) => status === "interrupted"), "all are interrupted");
});

test("a run that comes while another runs waits, is refused, or takes its place", async () => {
  const { thread_id: threadId } = await client.threads.create();
  const long = { input: { ticks: 10_000, delay: 0.02 } };
  const first = await client.runs.create(threadId, "slow", long);
  const second = await client.runs.create(threadId, "slow", { input: { ticks: 1 }, multitaskStrategy: "enqueue" });
  assert.equal((await client.runs.get(threadId, second.run_id)).status, "pending");
  await refused(client.runs.create(threadId, "slow", { input: {}, multitaskStrategy: "reject" }), 409);
  const third = await client.runs.create(threadId, "slow", { input: { ticks: 1 }, multitaskStrategy: "interrupt" });
  await client.runs.join(threadId, third.run_id);
  const status = async (run) => (await client.runs.get(threadId, run.run_id)).status;
  assert.deepEqual([await status(first), await status(second), await status(third)], [
    "interrupted",
    "interrupted",
    "success",
  ]);
});

test("a batch of runs without threads", async () => {
  const payloads = ["one", "two", "three"].map((text) => ({ assistantId: "chat", input: say(text) }));
  const runs = await client.runs.createBatch(payloads);
  assert.equal(runs.length, 3);
  assert.equal(new Set(runs.map((run) => run.thread_id)).size, 3);
  assert.ok(runs.every((run) => UUID.test(run.run_id) && run.status === "pending"));
});

test("a run without a thread: waited for, and created", async () => {
  const values = await client.runs.wait(null, "chat", { input: say("alone") });
  assert.equal(values.messages.at(-1).content, "You said: alone");
  const made = await client.runs.create(null, "chat", { input: say("alone"), onCompletion: "keep" });
  assert.match(made.run_id, UUID);
  if (SDK === "2.0") return; // it does not send onCompletion here, and so the thread goes with the run
  await until(
    async () => (await client.runs.get(made.thread_id, made.run_id)).status === "success",
    "the run has succeeded",
  );
  const state = await client.threads.getState(made.thread_id);
  assert.equal(state.values.messages.at(-1).content, "You said: alone");
});

test("config, context and metadata reach the graph", async () => {
  const { thread_id: threadId } = await client.threads.create();
  const made = await client.runs.wait(threadId, "contextual", {
    input: { place: "here" },
    context: { name: "Ann" },
    config: { tags: ["mine"] },
    metadata: { colour: "red" },
  });
  assert.equal(made.greeting, "hello Ann");
  assert.equal(made.seen.configurable.thread_id, threadId);
  assert.match(made.seen.configurable.run_id, UUID);
  assert.equal(made.seen.configurable.graph_id, "contextual");
  assert.equal(made.seen.metadata.colour, "red");
  assert.ok(made.seen.tags.includes("mine"));
});

test("a command goes somewhere and changes the state", async () => {
  const { thread_id: threadId } = await client.threads.create();
  await client.runs.wait(threadId, "counter", { input: { count: 1 } });
  const values = await client.runs.wait(threadId, "counter", { command: { update: { count: 10 }, goto: "three" } });
  assert.deepEqual([values.count, values.path.at(-1)], [10, "three 10"]);
});

test("a run stops before and after nodes that it is told, and goes on from there", async () => {
  const { thread_id: threadId } = await client.threads.create();
  await client.runs.wait(threadId, "slow", { input: { ticks: 1 }, interruptBefore: ["tick"] });
  assert.deepEqual((await client.threads.getState(threadId)).next, ["tick"]);
  await client.runs.wait(threadId, "slow", { input: null, interruptAfter: ["tick"] });
  assert.deepEqual((await client.threads.getState(threadId)).next, ["finish"]);
  const done = await client.runs.wait(threadId, "slow", { input: null });
  assert.deepEqual(done.steps, ["begin", "tick", "finish"]);
});

test("a run starts from a checkpoint of the past", async () => {
  const { thread_id: threadId } = await client.threads.create();
  await client.runs.wait(threadId, "chat", { input: say("one") });
  const { checkpoint } = await client.threads.getState(threadId);
  await client.runs.wait(threadId, "chat", { input: say("two") });
  const { checkpoint_id: checkpointId } = checkpoint;
  const values = await client.runs.wait(threadId, "chat", { input: say("three"), checkpointId });
  assert.deepEqual(values.messages.map((one) => one.content), ["one", "You said: one", "three", "You said: three"]);
});

// --- errors ---------------------------------------------------------------------------------------------------------

test("what is not there, or not right, is an HTTP error with its status", async () => {
  await refused(client.threads.get(NOWHERE), 404);
  await refused(client.threads.get("not-an-id"), 422);
  await refused(client.threads.getState(NOWHERE), 404);
  await refused(client.threads.update(NOWHERE, { metadata: {} }), 404);
  await refused(client.assistants.get(NOWHERE), 404);
  await refused(client.runs.create(NOWHERE, "chat", { input: say("x") }), 404);
  const { thread_id: threadId } = await client.threads.create();
  await refused(client.runs.get(threadId, NOWHERE), 404);
  await refused(client.runs.cancel(threadId, NOWHERE), 404);
  await refused(client.runs.delete(threadId, NOWHERE), 404);
  await refused(client.runs.create(threadId, "none-such", { input: say("x") }), 422);
  await refused(client.runs.create(threadId, NOWHERE, { input: say("x") }), 404);
  await refused(client.runs.create(threadId, "chat", { input: say("x"), streamMode: ["nonsense"] }), 422);
  await refused(client.runs.create(threadId, "chat", { input: say("x"), multitaskStrategy: "nonsense" }), 422);
  await refused(collect(client.runs.stream(threadId, "none-such", { input: say("x") })), 422);
  await refused(client.runs.wait(null, "chat", { command: { resume: "x" } }), 400);
  assert.deepEqual(await client.runs.list(threadId), []);
});

test("a run on a thread that is not there makes it, where that is asked for", async () => {
  const threadId = crypto.randomUUID();
  const values = await client.runs.wait(threadId, "chat", { input: say("new"), ifNotExists: "create" });
  assert.equal(values.messages.length, 2);
  assert.equal((await client.threads.get(threadId)).thread_id, threadId);
});

test("what is not the SDK's: a body that is no JSON is refused", async () => {
  const answer = await fetch(`${BASE_URL}/threads`, { method: "POST", body: "{" });
  assert.ok([400, 422].includes(answer.status) || OFFICIAL, String(answer.status));
});
