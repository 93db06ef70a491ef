"""The output items of /v1/responses (reasoning, message, function call), as objects and as streamed events."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

from launcher.simulator.engine import Sequence

Item = dict[str, Any]
Emit = Callable[[str, dict[str, Any]], None]


def _reasoning(item_id: str, text: str | None, status: str | None) -> Item:
    content = None if text is None else [{"text": text, "type": "reasoning_text"}]
    item: Item = {"id": item_id, "summary": [], "type": "reasoning", "content": content}
    return {**item, "encrypted_content": None, "status": status}


def _message(item_id: str, text: str | None, status: str) -> Item:
    content = [] if text is None else [_text_part(text)]
    item: Item = {"id": item_id, "content": content, "role": "assistant", "status": status}
    return {**item, "type": "message", "phase": None}


def _text_part(text: str, logprobs: list[Any] | None = None) -> dict[str, Any]:
    return {"annotations": [], "text": text, "type": "output_text", "logprobs": logprobs}


def _function_call(item_id: str, call_id: str, name: str, arguments: str, status: str) -> Item:
    item: Item = {"arguments": arguments, "call_id": call_id, "name": name, "type": "function_call"}
    return {**item, "id": item_id, "status": status}


def items_of(sequence: Sequence, *, harmony: bool) -> list[Item]:
    """The finished items of a sequence that was not streamed."""
    plan = sequence.plan
    said = plan.emitted[plan.hidden : sequence.produced]
    reasoning, content = "".join(said[: plan.reasoning]), "".join(said[plan.reasoning :])
    status = "incomplete" if harmony and sequence.finish == "length" else "completed"
    items = [_reasoning(_id("rs"), reasoning, None)] if reasoning else []
    if plan.tool is not None and content:
        items.append(_function_call(_id("fc"), _id("call"), plan.tool, content, status))
    elif content or not items:
        items.append(_message(_id("msg"), content, status))
    return items


def _id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(8)}"


class ItemStream:
    """Turns tokens into events: at most one item is open, each kind of item has its own five events."""

    def __init__(self, emit: Emit, *, harmony: bool) -> None:
        self._emit, self._harmony = emit, harmony
        self._kind: str | None = None
        self._id = self._call_id = ""
        self._tool = ""
        self._text: list[str] = []
        self._done: list[Item] = []

    def token(self, sequence: Sequence, piece: str) -> None:
        """One more token."""
        plan = sequence.plan
        place = sequence.produced - 1 - plan.hidden
        if place < 0:
            return
        kind = "reasoning" if place < plan.reasoning else ("message" if plan.tool is None else "function_call")
        if kind != self._kind:
            self._close("completed")
            self._open(kind, plan.tool or "")
        self._text.append(piece)
        index = len(self._done)
        match kind:
            case "reasoning":
                fields = {"content_index": 0, "delta": piece, "item_id": self._id, "output_index": index}
                self._emit("response.reasoning_text.delta", fields)
            case "message":
                where = {"content_index": 0, "delta": piece, "item_id": self._id}
                self._emit("response.output_text.delta", {**where, "logprobs": [], "output_index": index})
            case _:
                fields = {"delta": piece, "item_id": self._id, "output_index": index}
                self._emit("response.function_call_arguments.delta", fields)

    def close(self, sequence: Sequence) -> list[Item]:
        """Close what is open; returns all items as the final response lists them."""
        cut = self._harmony and sequence.finish == "length"
        self._close("incomplete" if cut else "completed")
        if not self._done:
            self._open("message", "")
            self._close("completed")
        return self._done

    def _open(self, kind: str, tool: str) -> None:
        self._kind, self._text, self._tool = kind, [], tool
        index = len(self._done)
        match kind:
            case "reasoning":
                self._id = _id("rs")
                item, part = _reasoning(self._id, None, "in_progress"), {"text": "", "type": "reasoning_text"}
            case "message":
                self._id = _id("msg")
                item, part = _message(self._id, None, "in_progress"), _text_part("", [])
            case _:
                self._id, self._call_id = _id("fc"), _id("call")
                item, part = _function_call(self._id, self._call_id, tool, "", "in_progress"), {}
        self._emit("response.output_item.added", {"item": item, "output_index": index})
        if part:
            where = {"content_index": 0, "item_id": self._id, "output_index": index}
            self._emit("response.content_part.added", {**where, "part": part})

    def _close(self, status: str) -> None:
        if self._kind is None:
            return
        text, index = "".join(self._text), len(self._done)
        where: dict[str, Any] = {"content_index": 0, "item_id": self._id}
        match self._kind:
            case "reasoning":
                self._emit("response.reasoning_text.done", {**where, "output_index": index, "text": text})
                part: dict[str, Any] = {"text": text, "type": "reasoning_text"}
                item = _reasoning(self._id, text, "completed")
                final = _reasoning(self._id, text, None)
            case "message":
                done = {**where, "logprobs": [], "output_index": index, "text": text}
                self._emit("response.output_text.done", done)
                part = _text_part(text)
                item = final = _message(self._id, text, status)
            case _:
                done = {"arguments": text, "item_id": self._id, "name": self._tool, "output_index": index}
                self._emit("response.function_call_arguments.done", done)
                part = {}
                item = final = _function_call(self._id, self._call_id, self._tool, text, status)
        if part:
            self._emit("response.content_part.done", {**where, "output_index": index, "part": part})
        self._emit("response.output_item.done", {"item": item, "output_index": index})
        self._done.append(final)
        self._kind = None
