"""What a reader holds, after leaving out what is void, equals what the run has saved.

The fold is the oracle's own: what each message consists of is put together here from the events alone.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from tests.support.oracle.history import Call, History, Said
from tests.support.oracle.stream import valid

from runstream import Event

_TOLD_APART: Final = ("messages", "log", "__interrupt__")


def state_violations(run: History) -> Iterator[str]:
    """Where what the stream says and what the state says differ."""
    events = valid(run.stored)
    if "messages" in run.modes:
        yield from _messages(run, events)
    if "updates" in run.modes:
        yield from _updates(run, events)
    if "custom" in run.modes:
        yield from _customs(run, events)
    if run.ended_well:
        if "values" in run.modes:
            yield from _values(run, events)
        if "tasks" in run.modes:
            yield from _tasks(run, events)
        yield from _inputs(run)


# --- messages ---------------------------------------------------------------------------------------------------------


def _messages(run: History, events: Iterable[Event]) -> Iterator[str]:
    folded = fold(events)
    known = run.before.said(inner=run.subgraphs)
    saved = {
        said.id: said
        for said in run.after.said(inner=run.subgraphs).values()
        if said.id not in known and not _is_input(run, said)
    }
    for message_id, said in saved.items():
        yield from _compared(said, folded.get(message_id))
    if run.ended_well:
        for message_id in folded.keys() - saved.keys():
            yield f"the stream has a message that was not saved by this run: {folded[message_id]}"


def _is_input(run: History, said: Said) -> bool:
    return said.type == "human" and said.text in run.inputs


def _compared(saved: Said, folded: Said | None) -> Iterator[str]:
    if folded is None:
        yield f"a saved message is missing in the stream: {saved}"
    elif folded.text != saved.text:
        yield f"message {saved.id}: {_difference(saved.text, folded.text)}"
    elif folded.type != saved.type:
        yield f"message {saved.id} is saved as {saved.type}, in the stream as {folded.type}"
    elif folded.calls != saved.calls:
        yield f"message {saved.id}: saved are the calls {saved.calls}, in the stream {folded.calls}"


def _difference(saved: str, folded: str) -> str:
    words = Counter(folded.split())
    words.subtract(saved.split())
    lost = [word for word, count in words.items() for _ in range(-count)]
    doubled = [word for word, count in words.items() for _ in range(count)]
    told = f"lost {lost}" if lost else f"twice {doubled}" if doubled else "in another order"
    return f"the stream says {folded!r}, saved is {saved!r}: {told}"


def fold(events: Iterable[Event]) -> dict[str, Said]:
    """Put messages together from what events say of them, in the order of their first events."""
    parts: dict[str, _Parts] = {}
    for event in events:
        if event.mode == "messages":
            message = event.data[0]
            parts.setdefault(message["id"], _Parts()).add(message)
    return {message_id: part.said(message_id) for message_id, part in parts.items()}


class _Parts:
    """What events say of one message."""

    def __init__(self) -> None:
        self._type = ""
        self._text = ""
        self._whole: list[Call] = []
        self._calls: dict[Any, dict[str, str]] = {}

    def add(self, message: Mapping[str, Any]) -> None:
        """Take in a chunk, or a whole message."""
        self._type = {"AIMessageChunk": "ai", "ToolMessageChunk": "tool"}.get(message["type"], message["type"])
        self._text += text_of_content(message["content"])
        if not message["type"].endswith("Chunk"):
            calls = message.get("tool_calls") or ()
            self._whole += [Call.of(call["id"], call["name"], call["args"]) for call in calls]
            return
        for chunk in message.get("tool_call_chunks") or ():
            call = self._calls.setdefault(chunk["index"], {})
            for field in ("id", "name", "args"):
                call[field] = call.get(field, "") + (chunk.get(field) or "")

    def said(self, message_id: str) -> Said:
        """The message."""
        calls = [Call.of(call["id"], call["name"], _read(call["args"])) for call in self._calls.values()]
        return Said(message_id, self._type, self._text, (*self._whole, *calls))


def _read(args: str) -> Any:
    try:
        return json.loads(args)
    except json.JSONDecodeError:
        return args


def text_of_content(content: Any) -> str:
    """The text of a message's content."""
    if isinstance(content, str):
        return content
    return "".join(block if isinstance(block, str) else block.get("text", "") for block in content)


# --- updates, custom, values, tasks -----------------------------------------------------------------------------------


def _updates(run: History, events: Sequence[Event]) -> Iterator[str]:
    """Each saved task's update is there once, and no other."""
    updates = [event for event in events if event.mode == "updates" and "__interrupt__" not in event.data]
    for (ns, task), count in Counter((event.ns, event.task) for event in updates).items():
        if task is None:
            yield f"{count} updates in {ns} have no task"
        elif count > 1:
            yield f"{count} updates of task {task} in {ns}"
    wrote = Counter(entry for event in updates if not event.ns for entry in _entries(event.data, "log"))
    known, saved = Counter(run.before.log), Counter(run.after.log)
    for entry, count in (saved - known).items():
        if wrote[entry] != count:
            yield f"the state's {entry!r} is in {wrote[entry]} updates"
    if run.ended_well:
        for entry in wrote.keys() - saved.keys():
            yield f"an update has {entry!r}, which was not saved"
        yield from _updated_messages(run, updates)


def _updated_messages(run: History, updates: Iterable[Event]) -> Iterator[str]:
    told = {message["id"] for event in updates if not event.ns for message in _entries(event.data, "messages")}
    saved = {said.id for said in run.after.messages}
    known = {said.id for said in run.before.messages}
    made = {said.id for said in run.after.messages if not _is_input(run, said)} - known
    for message_id in sorted(made - told):
        yield f"no update has the saved message {message_id}"
    for message_id in sorted(told - saved):
        yield f"an update has message {message_id}, which was not saved"


def _entries(update: Mapping[str, Any], name: str) -> Iterator[Any]:
    for of_node in update.values():
        if isinstance(of_node, Mapping):
            yield from of_node.get(name) or ()


def _customs(run: History, events: Iterable[Event]) -> Iterator[str]:
    """What a saved execution has emitted is there once; what another has, only where its task cannot be known."""
    seen: dict[str, list[int]] = {}
    for event in events:
        if event.mode == "custom":
            seen.setdefault(event.data["nonce"], []).append(event.data["n"])
            if run.alone and event.task is None:
                yield f"custom event {event.id} has no task, though no other task ran"
    for mark in run.after.marks() - run.before.marks():
        if mark.customs and (run.subgraphs or not mark.inside):
            found = seen.get(mark.nonce, [])
            if found != list(range(mark.customs)):
                yield f"of the {mark.customs} custom events of {mark} the stream has {found}"
    if run.ended_well:
        saved = {mark.nonce for mark in run.after.marks()}
        for event in events:
            if event.mode == "custom" and event.data["nonce"] not in saved and event.task is not None:
                yield f"custom event {event.id} is of an execution that was not saved: {event.data}"


def _values(run: History, events: Iterable[Event]) -> Iterator[str]:
    shown = [event for event in events if event.mode == "values" and not event.ns]
    if not shown:
        yield "the stream has no values"
        return
    last = shown[-1].data
    said = tuple(_said(message) for message in last.get("messages", ()))
    if said != run.after.messages:
        yield f"the last values have the messages {said}, saved are {run.after.messages}"
    if tuple(last.get("log", ())) != run.after.log:
        yield f"the last values have the log {last.get('log')}, saved is {run.after.log}"
    facts = json.dumps({name: last[name] for name in last if name not in _TOLD_APART}, sort_keys=True)
    if facts != run.after.facts:
        yield f"the last values have {facts}, saved is {run.after.facts}"


def _said(message: Mapping[str, Any]) -> Said:
    calls = tuple(Call.of(call["id"], call["name"], call["args"]) for call in message.get("tool_calls") or ())
    return Said(message["id"], message["type"], text_of_content(message["content"]), calls)


def _tasks(run: History, events: Iterable[Event]) -> Iterator[str]:
    """Each task begins once and ends once; where it asked, it ends in another run, and others begin in that, too."""
    is_whole = run.record["status"] == "success" and run.inputs
    counts = Counter((event.ns, event.data["id"], "result" in event.data) for event in events if event.mode == "tasks")
    for (ns, task, ended), count in counts.items():
        if count > 1:
            yield f"task {task} in {ns} {'ends' if ended else 'begins'} {count} times"
        if is_whole and not ended and not counts[ns, task, True]:
            yield f"task {task} in {ns} begins and does not end"


def _inputs(run: History) -> Iterator[str]:
    for text in run.inputs:
        count = sum(said.type == "human" and said.text == text for said in run.after.messages)
        if count != 1:
            yield f"the user's message {text!r} is {count} times in the state"
