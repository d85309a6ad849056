// A run's events folded into what there is to see. Nothing here touches the page.
//
// Unlike a reader that wants only the result, this one keeps what is void, marked as such: that a worker died and another
// said it again is what the page is to show.

const REMOVE_ALL = "__remove_all__";

/** An id as two numbers that compare. */
function place(id) {
  const [attempt, seq] = id.split("-").map(Number);
  return { attempt, seq };
}

function isBehind(id, other) {
  const [one, two] = [place(id), place(other)];
  return one.attempt > two.attempt || (one.attempt === two.attempt && one.seq > two.seq);
}

/** The text of a message's content: a string or a list of blocks. */
export function textOf(content) {
  if (typeof content === "string") return content;
  if (!Array.isArray(content)) return "";
  return content
    .map((block) => (typeof block === "string" ? block : block?.type === "text" ? (block.text ?? "") : ""))
    .join("");
}

/** What a model thinks aloud, of those that tell. */
function thoughtOf(content) {
  if (!Array.isArray(content)) return "";
  return content.map((block) => block?.thinking ?? block?.reasoning ?? "").join("");
}

export class Fold {
  constructor() {
    this.entries = [];
    this.events = [];
    this.status = "queued";
    this.attempts = [];
    this.voided = 0;
    this.error = null;
    this.reason = null;
    this._calls = new Map();
    this._messages = new Map();
    this._removals = [];
  }

  get ended() {
    return !["queued", "running"].includes(this.status);
  }

  /** The last message that stands. */
  get answer() {
    const spoken = this.entries.filter((entry) => entry.kind === "message" && entry.role === "ai" && !entry.void);
    return spoken.at(-1)?.text ?? "";
  }

  /** What the run asks for: `[{value, id}]`. */
  get interrupts() {
    const asked = this.entries.filter((entry) => entry.kind === "interrupt" && !entry.void);
    return asked.flatMap((entry) => entry.asked);
  }

  /** Take the next event; gives the entries that are new or not as they were. */
  apply(event) {
    const record = { ...event, attempt: event.id === null ? 0 : place(event.id).attempt, void: false };
    this.events.push(record);
    switch (event.mode) {
      case "attempt":
        return this._begin(event);
      case "end":
        return this._end(event);
      case "gap":
        return [this._add({ kind: "gap", id: event.data.before, attempt: record.attempt, task: null })];
      case "messages":
        return this._message(event, record.attempt);
      default:
        return this._note(event, record.attempt);
    }
  }

  _add(entry) {
    const added = { void: false, ...entry };
    this.entries.push(added);
    return added;
  }

  _begin(event) {
    const { attempt } = place(event.id);
    const before = this.attempts.at(-1) ?? null;
    const told = event.data;
    this.status = "running";
    const changed = this._leaveOut(event);
    const entry = this._add({
      kind: "attempt",
      id: event.id,
      attempt,
      worker: told.worker,
      at: told.at,
      left: told.left ?? null,
      before: before?.worker ?? null,
      voids: told.voids?.count ?? 0,
      checkpoint: told.checkpoint ?? null,
    });
    if (before) before.left ??= { at: told.at, cause: told.left };
    this.attempts.push({ attempt, worker: told.worker, at: told.at, left: null });
    return [...changed, entry];
  }

  _end(event) {
    const told = event.data;
    const changed = this._leaveOut(event);
    this.status = told.status;
    this.error = told.error ?? null;
    this.reason = told.reason ?? null;
    const { attempt } = place(event.id);
    const entry = { kind: "end", id: event.id, attempt, task: null, at: told.at };
    return [...changed, this._add({ ...entry, status: told.status, error: this.error, reason: this.reason })];
  }

  /** Mark what a later attempt does again. */
  _leaveOut(event) {
    const told = event.data.voids ?? {};
    const tasks = new Set((told.tasks ?? []).map((task) => task.id));
    const events = new Set(told.events ?? []);
    const { attempt, seq } = place(event.id);
    const after = seq === 0 ? (event.data.after ?? null) : null;
    // The reader gives an attempt again where Redis has lost what it had given under these ids.
    const rewinds = event.data.rewinds ?? null;
    const isRewound = (one) => rewinds !== null && one.attempt >= attempt && !isBehind(one.id, rewinds);
    const isVoid = (one, ids) =>
      isRewound(one) ||
      (one.attempt < attempt &&
      (Boolean(told.all) ||
        (one.task !== null && tasks.has(one.task)) ||
        ids.some((id) => events.has(id)) ||
        (after !== null && isBehind(one.id, after))));
    // The last one is the event that says so.
    for (const record of this.events.slice(0, -1)) {
      if (record.mode !== "attempt" && record.id !== null && isVoid(record, [record.id])) record.void = true;
    }
    const changed = [];
    const rests = [];
    for (const entry of this.entries) {
      if (entry.void || entry.kind === "attempt" || entry.kind === "gap") continue;
      // What comes from no task is void event by event.
      const pieces = entry.task === null && entry.pieces ? entry.pieces : [entry];
      const standing = pieces.filter((piece) => !isVoid({ ...piece, task: entry.task, attempt: place(piece.id).attempt }, [piece.id]));
      if (standing.length === pieces.length) continue;
      entry.void = true;
      changed.push(entry);
      if (standing.length) rests.push({ ...entry, void: false, id: standing[0].id, pieces: standing });
    }
    for (const removal of this._removals.filter((one) => isVoid(one, [one.id]))) {
      // What a void removal took away is there again, unless it is void itself.
      const back = removal.gone.filter((entry) => !isVoid({ ...entry, attempt: place(entry.id).attempt }, [entry.id]));
      rests.push(...back.map((entry) => ({ ...entry, void: false, removed: false })));
    }
    this._removals = this._removals.filter((one) => !isVoid(one, [one.id]));
    for (const rest of rests) {
      rest.text = rest.pieces.map((piece) => piece.text).join("");
      changed.push(this._add(rest));
      if (rest.messageId) this._messages.set(rest.messageId, this.entries.at(-1));
      if (rest.call) this._calls.set(rest.call, this.entries.at(-1));
    }
    this.voided += told.count ?? 0;
    return changed;
  }

  _message(event, attempt) {
    const [message, metadata] = event.data;
    if (message.type === "remove") return this._remove(message, event, attempt);
    const isChunk = message.type.endsWith("Chunk");
    const { entry, before } = this._entryOf(message, metadata, event, attempt, isChunk);
    entry.pieces.push({ id: event.id, text: textOf(message.content) });
    if (message.id) this._messages.set(message.id, entry);
    if (event.call) this._calls.set(event.call, entry);
    if (isChunk) {
      entry.text += textOf(message.content);
      entry.thought += thoughtOf(message.content);
      addCalls(entry.calls, message.tool_call_chunks ?? []);
    } else {
      entry.text = textOf(message.content);
      entry.thought = thoughtOf(message.content);
      entry.calls = (message.tool_calls ?? []).map((call) => ({ name: call.name, args: JSON.stringify(call.args) }));
      entry.failed = message.status === "error";
    }
    return [...before, entry];
  }

  /** The entry that a message goes on with, or takes the place of; never one that is void. Another call is another message. */
  _entryOf(message, metadata, event, attempt, isChunk) {
    const known = (event.call && this._calls.get(event.call)) || (message.id && this._messages.get(message.id)) || null;
    const isOfCall = known !== null && (known.call ?? null) === (event.call ?? null);
    if (known && !known.void && (!isChunk || (isOfCall && known.task === event.task))) return { entry: known, before: [] };
    const entry = this._newMessage(message, metadata, event, attempt);
    if (known && isChunk && known.removed && isOfCall) {
      // It was removed while it was being streamed, and is there again.
      Object.assign(entry, { text: known.text, thought: known.thought, pieces: [...known.pieces], calls: structuredClone(known.calls) });
    }
    if (!known || known.void || !isChunk || isOfCall) return { entry, before: [] };
    known.void = known.removed = true;
    return { entry, before: [known] };
  }

  /** A graph's node removes one message, or all of its graph and the graphs below. */
  _remove(message, event, attempt) {
    const isBelow = (ns) => event.ns.every((segment, at) => ns[at] === segment);
    const one = this._messages.get(message.id);
    const named =
      message.id === REMOVE_ALL ? this.entries.filter((each) => each.kind === "message" && isBelow(each.ns)) : one ? [one] : [];
    const gone = named.filter((each) => !each.void);
    for (const entry of gone) entry.void = entry.removed = true;
    this._removals.push({ id: event.id, task: event.task, attempt, gone });
    return gone;
  }

  _newMessage(message, metadata, event, attempt) {
    return this._add({
      kind: "message",
      id: event.id,
      pieces: [],
      call: event.call ?? null,
      messageId: message.id ?? null,
      attempt,
      task: event.task,
      role: message.type.replace("MessageChunk", "").toLowerCase(),
      name: message.name ?? null,
      node: metadata?.langgraph_node ?? null,
      ns: event.ns,
      text: "",
      thought: "",
      calls: [],
      failed: false,
      removed: false,
    });
  }

  _note(event, attempt) {
    const { id, task } = event;
    const among = ["values", "updates"].includes(event.mode) ? event.data?.__interrupt__ : null;
    const asked = [...(event.interrupts ?? []), ...(Array.isArray(among) ? among : [])];
    if (asked.length && event.ns.length === 0) {
      const known = new Set(this.interrupts.map((one) => one.id));
      const fresh = asked.filter((one) => !known.has(one.id));
      return fresh.length ? [this._add({ kind: "interrupt", id, task, attempt, asked: fresh })] : [];
    }
    return [this._add({ kind: "note", id, task, attempt, mode: event.mode, ns: event.ns, data: event.data })];
  }
}

/** Chunks of tool calls add up by their index. */
function addCalls(calls, chunks) {
  for (const chunk of chunks) {
    const index = chunk.index ?? calls.length;
    const known = (calls[index] ??= { name: "", args: "" });
    known.name += chunk.name ?? "";
    known.args += chunk.args ?? "";
  }
}
