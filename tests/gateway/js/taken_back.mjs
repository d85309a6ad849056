// A page that gets nothing but chunks of messages follows a run whose worker is killed in the middle of a message. It
// takes back what is void by the `remove` messages that it is sent. `test_js.py` does the killing.

import assert from "node:assert/strict";

import { Mounted } from "./hook.mjs";
import { makeClient, say } from "./support.mjs";

const WORDS = 100;
const client = makeClient();
const { thread_id: threadId } = await client.threads.create();
const page = new Mounted({ assistantId: "tale", threadId, fetchStateHistory: false });
await page.settled();
const input = { ...say("go"), words: WORDS, delay: 0.05 };
const { run_id: runId } = await client.runs.create(threadId, "tale", { input, streamMode: ["messages-tuple"] });
const watched = page.now.joinStream(runId, "-1", { streamMode: ["messages-tuple"] });
await page.shows((now) => now.messages.at(-1)?.content.includes("b9 "), "words of the second message");
console.log(JSON.stringify({ run_id: runId }));
await watched;
await page.settled();

const said = (word) => Array.from({ length: WORDS }, (_, number) => `${word}${number} `).join("");
for (const frame of page.frames) {
  for (const word of ["a", "b"]) {
    const shown = frame.filter((text) => text.startsWith(`${word}0 `));
    assert.ok(shown.length <= 1, `said twice: ${JSON.stringify(frame)}`);
    assert.ok(shown.every((text) => said(word).startsWith(text)), `said wrong: ${JSON.stringify(frame)}`);
  }
}
assert.ok(page.frames.some((frame) => frame.at(-1) === said("b")), "it shows the whole second message");
assert.deepEqual(page.errors, []);
page.unmount();
