// A page follows a run whose worker is killed in the middle of a message. `test_js.py` does the killing: it is told the
// run's id on standard output. What the page then shows, and what `join` gives, is what the thread has saved.

import assert from "node:assert/strict";

import { Mounted } from "./hook.mjs";
import { collect, makeClient, say } from "./support.mjs";

const client = makeClient();
const { thread_id: threadId } = await client.threads.create();
const page = new Mounted({ assistantId: "tale", threadId, fetchStateHistory: process.argv[2] === "history" });
await page.settled();
const turn = page.now.submit(
  { ...say("go"), words: 15, delay: 0.05 },
  { streamResumable: true, onDisconnect: "continue" },
);
await page.shows((now) => now.messages[2]?.content.includes("b9 "), "words of the second message");
const [{ run_id: runId }] = page.runs;
const joined = client.runs.join(threadId, runId);
const streamed = collect(client.runs.joinStream(threadId, runId, { lastEventId: "-1" }));
console.log(JSON.stringify({ run_id: runId }));

await turn;
await page.settled();
const { values, next } = await client.threads.getState(threadId);
const said = (word) => Array.from({ length: 15 }, (_, number) => `${word}${number} `).join("");
assert.deepEqual(values.messages.map((message) => message.content), ["go", said("a"), said("b")]);
assert.deepEqual(next, []);
const plain = (messages) => messages.map(({ id, type, content }) => ({ id, type, content }));
assert.deepEqual(plain(page.now.messages), plain(values.messages));
assert.deepEqual(page.errors, []);
assert.equal(page.now.error, undefined);
assert.deepEqual(await joined, values);
assert.equal((await client.runs.get(threadId, runId)).status, "success");

// Somebody was there before: the second message was begun twice, and never were both beginnings on the page.
const parts = await streamed;
assert.deepEqual(parts.filter((part) => part.event === "metadata").map((part) => part.data.attempt), [1, 2]);
assert.deepEqual(parts.findLast((part) => part.event === "values").data, values);
for (const frame of page.frames) {
  assert.ok(frame.length <= 3, `more than the three messages: ${JSON.stringify(frame)}`);
  for (const [place, text] of frame.entries()) {
    assert.ok(values.messages[place].content.startsWith(text), `said twice: ${JSON.stringify(frame)}`);
  }
}
page.unmount();
