// Streams and a page whose gateway dies. `test_js.py` does the killing, when it is told on standard output that all are
// in the middle, and has the address lead to another gateway. Everybody has every event once.

import assert from "node:assert/strict";

import { Mounted } from "./hook.mjs";
import { collect, makeClient, say, texts } from "./support.mjs";

const STREAMS = 20;
const WORDS = 40;
const input = { ...say("go"), words: WORDS, delay: 0.05 };
const client = makeClient();

let arrived = 0;
let tell;
const allArrived = new Promise((resolve) => (tell = resolve));

function arrive() {
  arrived += 1;
  if (arrived === STREAMS + 1) tell();
}

async function follow(threadId, stream) {
  const parts = [];
  for await (const part of stream) {
    parts.push(part);
    if (parts.length === 10) arrive();
  }
  return { threadId, parts };
}

const payload = { input, streamMode: ["values", "messages-tuple"], streamResumable: true };
const following = [];
for (let number = 0; number < STREAMS; number += 1) {
  const { thread_id: threadId } = await client.threads.create();
  following.push(follow(threadId, makeClient().runs.stream(threadId, "tale", payload)));
}
const { thread_id: shownThread } = await client.threads.create();
const page = new Mounted({ assistantId: "tale", threadId: shownThread });
await page.settled();
const turn = page.now.submit(input, { streamResumable: true, onDisconnect: "continue" });
await page.shows((now) => now.messages[1]?.content.includes("a5 "), "some words");
arrive();
await allArrived;
console.log("in the middle");

for (const { threadId, parts } of await Promise.all(following)) {
  const all = await collect(client.runs.joinStream(threadId, parts[0].data.run_id, { lastEventId: "-1" }));
  assert.deepEqual(parts, all);
  const { values } = await client.threads.getState(threadId);
  assert.deepEqual(parts.findLast((part) => part.event === "values").data, values);
  assert.deepEqual(texts(parts), values.messages.slice(1).map((message) => message.content));
  assert.equal((await client.runs.list(threadId)).length, 1);
}

await turn;
await page.settled();
const { values } = await client.threads.getState(shownThread);
const contents = values.messages.map((message) => message.content);
assert.deepEqual(page.texts, contents);
assert.deepEqual(page.errors, []);
for (const frame of page.frames) {
  for (const [place, text] of frame.entries()) assert.ok(contents[place].startsWith(text), JSON.stringify(frame));
}
page.unmount();
