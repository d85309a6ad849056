// `useStream`, mounted: what it shows while a run streams, and that it ends with what the thread has saved.

import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { Mounted, leavable, storage } from "./hook.mjs";
import { Cable, OFFICIAL, SDK, collect, makeClient, say, until } from "./support.mjs";

const client = makeClient();
/** Mount a page for as long as the test takes. */
function mount(t, options) {
  const page = new Mounted({ assistantId: "tale", ...options });
  t.after(() => page.unmount());
  return page;
}

async function newThread() {
  return (await client.threads.create()).thread_id;
}

/** The run that a page of this thread joins when it is mounted. */
function stored(threadId) {
  return storage.getItem(`lg:stream:${threadId}`);
}

/** What a message says, without what the hook adds or leaves out. */
function plain(messages) {
  return messages.map(({ id, type, content, tool_calls: calls, tool_call_id: call }) => ({
    id,
    type,
    content,
    calls: (calls ?? []).map((one) => [one.name, one.args, one.id]),
    ...(call ? { call } : {}),
  }));
}

/** The page shows the messages that the thread has saved. */
async function assertShowsSaved(page, threadId) {
  const { values } = await client.threads.getState(threadId);
  assert.deepEqual(plain(page.now.messages), plain(values.messages));
  return values;
}

/** At every rendering each message was a beginning of what it is at the end, and so no token was shown twice. */
function assertGrew(frames, texts) {
  for (const frame of frames) {
    for (const [place, text] of frame.entries()) {
      assert.ok((texts[place] ?? "").startsWith(text), `${JSON.stringify(frame)} is no beginning of ${texts}`);
    }
  }
}

const SLOW = { ...say("go"), words: 20, delay: 0.05 };

describe("useStream", { concurrency: 8 }, () => {
  for (const fetchStateHistory of [true, false, { limit: 3 }]) {
    test(`a conversation, word by word, fetchStateHistory ${JSON.stringify(fetchStateHistory)}`, async (t) => {
      const page = mount(t, { fetchStateHistory });
      await page.settled();
      assert.deepEqual(page.now.messages, []);

      const turn = page.now.submit({ ...say("one"), words: 10, delay: 0.02 });
      await page.shows((now) => now.isLoading && now.messages.length > 1, "a message that is being written");
      await turn;
      await page.settled();
      assert.deepEqual(page.errors, []);
      const [threadId] = page.threadIds;
      assert.equal(page.runs[0].thread_id, threadId);
      await assertShowsSaved(page, threadId);
      assertGrew(page.frames, page.texts);
      const lengths = new Set(page.frames.map((frame) => frame[1]?.length ?? 0));
      assert.ok(lengths.size > 3, "it did not grow by and by");

      await page.now.submit({ ...say("two"), words: 3 });
      await page.settled();
      const { messages } = await assertShowsSaved(page, threadId);
      assert.equal(messages.length, 6);
      assertGrew(page.frames, page.texts);
      assert.equal(page.now.error, undefined);
      if (fetchStateHistory === true) assert.ok(page.now.history.length > 4);
    });
  }

  test("what is sent is shown at once, where that is asked for", async (t) => {
    const page = mount(t, { assistantId: "chat", threadId: await newThread() });
    await page.settled();
    const mine = { id: "mine", type: "human", content: "x" };
    const optimisticValues = (now) => ({ messages: [...(now.messages ?? []), mine] });
    const turn = page.now.submit({ messages: [mine] }, { optimisticValues });
    await turn;
    await page.settled();
    assert.deepEqual(page.frames.find((frame) => frame.length > 0), ["x"]);
    assert.deepEqual(page.texts, ["x", "You said: x"]);
  });

  test("a tool is called: its call, its answer, and what is said of it", async (t) => {
    const threadId = await newThread();
    const page = mount(t, { assistantId: "agent", threadId });
    await page.settled();
    await page.now.submit(say("look up river"));
    await page.settled();
    await assertShowsSaved(page, threadId);
    assert.deepEqual(page.now.messages.map((message) => message.type), ["human", "ai", "tool", "ai"]);
    assert.deepEqual(page.now.messages[1].tool_calls.map((call) => call.args), [{ word: "river" }]);
    assert.equal(page.now.toolCalls[0].result.content, "river means something");
  });

  for (const fetchStateHistory of [true, false]) {
    test(`a question, seen again after a reload, and answered, fetchStateHistory ${fetchStateHistory}`, async (t) => {
      const threadId = await newThread();
      const first = mount(t, { threadId, fetchStateHistory });
      await first.settled();
      await first.now.submit({ ...say("go"), ask: true });
      await first.settled();
      assert.deepEqual(first.now.interrupt.value, { question: "go on?" });
      const { id } = first.now.interrupt;
      first.unmount();

      const page = mount(t, { threadId, fetchStateHistory });
      await page.shows((now) => now.interrupt !== undefined, "the question");
      assert.deepEqual([page.now.interrupt.value, page.now.interrupt.id], [{ question: "go on?" }, id]);
      await page.now.submit(undefined, { command: { resume: "yes" } });
      await page.settled();
      await assertShowsSaved(page, threadId);
      assert.deepEqual(page.texts, ["go", "a0 a1 a2 a3 a4 ", "yes", "b0 b1 b2 b3 b4 "]);
      // Before 1.15 the hook goes on showing the question of the state that it has read first, and reads no other.
      if (fetchStateHistory || SDK === "1.15") assert.equal(page.now.interrupt, undefined);
      assert.deepEqual(page.errors, []);
    });
  }

  for (const reconnectOnMount of [true, false]) {
    test(`stopped, reconnectOnMount ${reconnectOnMount}`, async (t) => {
      const threadId = await newThread();
      const page = mount(t, { threadId, reconnectOnMount, fetchStateHistory: true });
      await page.settled();
      const turn = page.now.submit({ ...SLOW, words: 1000 });
      await page.shows((now) => now.messages[1]?.content.includes("a3 "), "some words");
      const [{ run_id: runId }] = page.runs;
      await page.now.stop();
      await turn;
      await page.shows((now) => !now.isLoading, "that nothing is on its way");
      const status = async () => (await client.runs.get(threadId, runId)).status;
      await until(async () => (await status()) === "interrupted", "the run is interrupted");
      assert.deepEqual(page.errors, []);
      assert.equal(stored(threadId), null);

      // And the conversation goes on.
      await page.now.submit({ ...say("again"), words: 2, delay: 0.001 }, { checkpoint: null });
      await page.settled();
      const { messages } = await assertShowsSaved(page, threadId);
      assert.deepEqual(messages.map((message) => message.content), ["go", "again", "a0 a1 ", "b0 b1 "]);
    });
  }

  test("a page that is left in the middle and opened again goes on where it was", async (t) => {
    const threadId = await newThread();
    const { callerOptions, leave } = leavable();
    const first = mount(t, { threadId, callerOptions, reconnectOnMount: true, fetchStateHistory: true });
    await first.settled();
    first.now.submit(SLOW);
    await first.shows((now) => now.messages[1]?.content.includes("a5 "), "some words");
    leave();
    first.unmount();
    const [{ run_id: runId }] = first.runs;
    assert.equal(stored(threadId), runId);

    const page = mount(t, { threadId, reconnectOnMount: true, fetchStateHistory: true });
    await page.shows((now) => now.isLoading && now.messages.length > 1, "what is being said");
    await page.shows((now) => !now.isLoading && now.messages.length === 3, "the end");
    await page.settled();
    await assertShowsSaved(page, threadId);
    assertGrew(page.frames, page.texts);
    assert.deepEqual(page.errors, []);
    assert.equal(stored(threadId), null);
    assert.equal((await client.runs.list(threadId)).length, 1);
  });

  test("a page that is opened after the run has ended shows all of it", async (t) => {
    const threadId = await newThread();
    const { callerOptions, leave } = leavable();
    const first = mount(t, { threadId, callerOptions, reconnectOnMount: true });
    await first.settled();
    first.now.submit({ ...SLOW, delay: 0.01 });
    await first.shows((now) => now.messages.length > 1, "some words");
    leave();
    first.unmount();
    await client.runs.join(threadId, first.runs[0].run_id);

    const page = mount(t, { threadId, reconnectOnMount: true });
    await page.shows((now) => now.messages.length === 3, "the messages");
    await page.shows((now) => !now.isLoading && stored(threadId) === null, "that nothing is on its way");
    await assertShowsSaved(page, threadId);
    assert.deepEqual(page.errors, []);
  });

  test("a second page joins a run that another one started", async (t) => {
    const threadId = await newThread();
    const first = mount(t, { threadId });
    const second = mount(t, { threadId, fetchStateHistory: true });
    await first.settled();
    await second.settled();
    const turn = first.now.submit(SLOW, { streamResumable: true });
    await first.shows((now) => now.messages[1]?.content.includes("a2 "), "some words");
    await second.now.joinStream(first.runs[0].run_id);
    await turn;
    await second.settled();
    await assertShowsSaved(second, threadId);
    assertGrew(second.frames, second.texts);
  });

  test("another thread is shown, and the first one again", async (t) => {
    const threads = [await newThread(), await newThread()];
    for (const [place, threadId] of threads.entries()) {
      await client.runs.wait(threadId, "chat", { input: say(`thread ${place}`) });
    }
    const page = mount(t, { assistantId: "chat", threadId: threads[0], fetchStateHistory: true });
    await page.shows((now) => now.messages.length === 2, "the first thread");
    page.change({ threadId: threads[1] });
    await page.shows((now) => now.messages[1]?.content === "You said: thread 1", "the second thread");
    await page.now.submit(say("more"));
    await page.settled();
    await assertShowsSaved(page, threads[1]);
    page.change({ threadId: threads[0] });
    await page.shows((now) => now.messages[1]?.content === "You said: thread 0", "the first thread again");
    await assertShowsSaved(page, threads[0]);
  });

  test("a thread is left in the middle of its run", { skip: SDK === "2.0" && "it has no switchThread" }, async (t) => {
    const page = mount(t, { reconnectOnMount: true, fetchStateHistory: true });
    await page.settled();
    page.now.submit(SLOW);
    await page.shows((now) => now.messages[1]?.content.includes("a3 "), "some words");
    const [threadId] = page.threadIds;
    page.now.switchThread(null);
    await page.shows((now) => now.messages.length === 0, "an empty thread");
    await page.shows((now) => !now.isLoading, "that nothing is on its way");
    page.now.switchThread(threadId);
    await page.shows((now) => !now.isLoading && now.messages.length === 3, "the run's end");
    await assertShowsSaved(page, threadId);
  });

  test("what the graph raises is shown", async (t) => {
    const page = mount(t, { assistantId: "failing", threadId: await newThread() });
    await page.settled();
    const { error } = console;
    console.error = () => {};
    await page.now.submit({});
    await page.settled();
    console.error = error;
    assert.match(String(page.now.error?.message), /boom/);
    assert.equal(page.errors.length, 1);
  });

  test("an answer is asked for again: both are branches", async (t) => {
    const threadId = await newThread();
    const page = mount(t, { assistantId: "chat", threadId, fetchStateHistory: true });
    await page.settled();
    await page.now.submit(say("one"));
    await page.settled();
    const [, answer] = page.now.messages;
    const seen = page.now.getMessagesMetadata(answer, 1).firstSeenState;
    await page.now.submit(undefined, { checkpoint: seen.parent_checkpoint });
    await page.settled();
    assert.deepEqual(page.texts, ["one", "You said: one"]);
    const [, other] = page.now.messages;
    assert.notEqual(other.id, answer.id);
    const { branchOptions } = page.now.getMessagesMetadata(other, 1);
    assert.equal(branchOptions.length, 2);
    await assertShowsSaved(page, threadId);
    page.now.setBranch(branchOptions[0]);
    await page.shows((now) => now.messages[1]?.id === answer.id, "the first answer");
  });

  test("subgraphs, and the events that they write", async (t) => {
    const threadId = await newThread();
    const written = [];
    const onCustomEvent = (data, { namespace }) => written.push([data, namespace?.[0]?.split(":")[0]]);
    const page = mount(t, { assistantId: "parent", threadId, onCustomEvent });
    await page.settled();
    await page.now.submit({}, { streamSubgraphs: true, streamMode: ["values", "messages-tuple", "updates"] });
    await page.settled();
    const { steps } = await assertShowsSaved(page, threadId);
    assert.deepEqual(page.now.values.steps, steps);
    assert.deepEqual(written, [[{ from: "inner" }, "child"]]);
  });

  test("a connection that breaks in the middle is not seen", { skip: OFFICIAL && "its ids repeat" }, async (t) => {
    const threadId = await newThread();
    const cable = await Cable.open();
    try {
      const page = mount(t, { apiUrl: cable.url, threadId, fetchStateHistory: true });
      await page.settled();
      const turn = page.now.submit(SLOW, { streamResumable: true, onDisconnect: "continue" });
      await page.shows((now) => now.messages[1]?.content.includes("a5 "), "some words");
      cable.cut();
      await page.shows((now) => now.messages[2]?.content.includes("b5 "), "words of the second message");
      cable.cut();
      await turn;
      await page.settled();
      await assertShowsSaved(page, threadId);
      assertGrew(page.frames, page.texts);
      assert.deepEqual(page.errors, []);
    } finally {
      await cable.close();
    }
  });

  test("what was streamed can be read again from the run", async (t) => {
    const threadId = await newThread();
    const page = mount(t, { threadId, reconnectOnMount: true });
    await page.settled();
    await page.now.submit({ ...say("go"), words: 3 });
    await page.settled();
    const again = await collect(client.runs.joinStream(threadId, page.runs[0].run_id, { lastEventId: "-1" }));
    const values = again.findLast((part) => part.event === "values").data;
    assert.deepEqual(plain(page.now.messages), plain(values.messages));
  });
});
