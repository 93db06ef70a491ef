"""POST /v1/responses, GET /v1/responses/{id}, POST /v1/responses/{id}/cancel."""

from __future__ import annotations

import secrets
from typing import Any

from launcher.simulator import faults
from launcher.simulator.chat import chat_generation
from launcher.simulator.engine import Sequence
from launcher.simulator.errors import ApiError, ValidationError, dumps, missing
from launcher.simulator.params import Params, read
from launcher.simulator.response_items import Item, ItemStream, items_of
from launcher.simulator.service import Answer, Call

_STORED = 1000


def handle(call: Call) -> None:
    """Answer one responses request: streamed, whole, or in the background."""
    params = read(call.body, max_fields=("max_output_tokens",))
    conversation = _conversation(call.body)
    model = call.check_model()
    call.check_engine()
    answer = ResponseAnswer(call, params, model)
    answer.generations = [chat_generation(call, conversation, params)]
    answer.remember()
    faults.run(answer)
    if answer.background and not call.request.answered:
        call.request.on_disconnect = None
        call.json(200, answer.object("queued"))


def retrieve(call: Call, response_id: str) -> None:
    """The stored response, whatever its status."""
    call.json(200, _stored(call, response_id).current())


def cancel(call: Call, response_id: str) -> None:
    """Stop a background response."""
    answer = _stored(call, response_id)
    if not answer.background:
        raise ApiError("Cannot cancel a synchronous response.", kind="invalid_request_error", param="response_id")
    if not answer.ended:
        answer.status = "cancelled"
        answer.disconnected()
    call.json(200, answer.current())


def _stored(call: Call, response_id: str) -> ResponseAnswer:
    answer = call.service.responses.get(response_id)
    if not isinstance(answer, ResponseAnswer):
        message = f"Response with id '{response_id}' not found."
        raise ApiError(message, status=404, kind="invalid_request_error", param="response_id")
    return answer


def _conversation(body: dict[str, Any]) -> list[dict[str, Any]]:
    given = body.get("input")
    if given is None:
        raise missing("input", body)
    system = [{"role": "system", "content": body["instructions"]}] if body.get("instructions") else []
    if isinstance(given, str):
        return [*system, {"role": "user", "content": given}]
    if not isinstance(given, list) or not all(isinstance(each, dict) for each in given):
        raise ValidationError("list_type", "body.input", "Input should be a valid list", given)
    return [*system, *(_message(item) for item in given)]


def _message(item: dict[str, Any]) -> dict[str, Any]:
    if item.get("type") == "function_call_output":
        return {"role": "tool", "content": item.get("output")}
    if item.get("type") == "function_call":
        return {"role": "assistant", "content": item.get("arguments")}
    return {"role": item.get("role", "user"), "content": item.get("content")}


class ResponseAnswer(Answer):
    """Writes one response's events or the whole object. A stream has no [DONE]; a dead engine just cuts it."""

    def __init__(self, call: Call, params: Params, model: str) -> None:
        super().__init__(call, params, "resp_")
        given = call.body.get("request_id")
        self.id = str(given) if given else f"resp_{secrets.token_hex(8)}"
        self.model = model
        self.background = bool(call.body.get("background"))
        self.status = "in_progress"
        self._number = 0
        self._items = ItemStream(self._event, harmony=self.service.knobs.reasoning)
        self._output: list[Item] = []

    def remember(self) -> None:
        """Keep this response for GET, the oldest one giving way."""
        if self.service.knobs.store_responses and self.call.body.get("store", True):
            stored = self.service.responses
            stored[self.id] = self
            while len(stored) > _STORED:
                del stored[next(iter(stored))]

    def begin_stream(self) -> None:
        """Send the headers and the first two events."""
        super().begin_stream()
        for name in ("response.created", "response.in_progress"):
            self._event(name, {"response": self.object("in_progress")})

    def on_token(self, sequence: Sequence, piece: str, finish: str | None) -> None:
        """Write one token."""
        if finish != "abort":
            self._items.token(sequence, piece)

    def complete(self) -> None:
        """Write the end, or the whole answer."""
        sequence = self.generations[0].sequences[0]
        if sequence.finish == "abort":
            self.error(ApiError("aborted"))
            return
        self.status = "incomplete" if sequence.finish == "length" else "completed"
        if self.params.stream:
            self._output = self._items.close(sequence)
            self._event("response.completed", {"response": self.current()})
            self.request.end()
            return
        self._output = items_of(sequence, harmony=self.service.knobs.reasoning)
        if not self.background:
            self.call.json(200, self.current())

    def failed(self) -> None:
        """The engine died; a background response has nobody to tell."""
        self.status = "failed"
        if self.background and self.request.answered:
            self._end()
            return
        super().failed()

    def error(self, error: ApiError) -> None:  # noqa: ARG002  # it has no place here
        """Write that the engine died."""
        self.status = "failed"
        self.request.cut()

    def current(self) -> dict[str, Any]:
        """The response object as it stands."""
        return self.object(self.status)

    def object(self, status: str) -> dict[str, Any]:
        """The response object with this status, keys in vLLM's order."""
        body, done = self.call.body, status in ("completed", "incomplete")
        tools = body.get("tools") or []
        return {
            "id": self.id,
            "created_at": self.created,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": body.get("instructions"),
            "metadata": body.get("metadata"),
            "model": self.model,
            "object": "response",
            "output": self._output if done else [],
            "parallel_tool_calls": body.get("parallel_tool_calls", True),
            "temperature": self.params.temperature,
            "tool_choice": body.get("tool_choice", "auto") if tools else "none",
            "tools": tools,
            "top_p": self.params.top_p,
            "background": self.background,
            "max_output_tokens": self.generations[0].max_tokens,
            "max_tool_calls": body.get("max_tool_calls"),
            "previous_response_id": body.get("previous_response_id"),
            "prompt": body.get("prompt"),
            "reasoning": body.get("reasoning"),
            "service_tier": "auto",
            "status": status,
            "text": body.get("text"),
            "top_logprobs": body.get("top_logprobs"),
            "truncation": "disabled",
            "usage": self._usage() if done else None,
            "user": body.get("user"),
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "kv_transfer_params": None,
            "ec_transfer_params": None,
            "input_messages": None,
            "output_messages": None,
        }

    def _usage(self) -> dict[str, Any]:
        """Usage; the per-turn lists are Harmony's."""
        generation = self.generations[0]
        sequence = generation.sequences[0]
        harmony = self.service.knobs.reasoning
        prompt, made, cached = len(generation.prompt), sequence.produced, generation.cached
        thought = max(0, min(made - sequence.plan.hidden, sequence.plan.reasoning))
        return {
            "input_tokens": prompt,
            "input_tokens_details": {
                "cached_tokens": cached,
                "cache_write_tokens": 0,
                "input_tokens_per_turn": [prompt] if harmony else [],
                "cached_tokens_per_turn": [cached] if harmony else [],
            },
            "output_tokens": made,
            "output_tokens_details": {
                "reasoning_tokens": thought,
                "tool_output_tokens": 0,
                "output_tokens_per_turn": [made] if harmony else [],
                "tool_output_tokens_per_turn": [0] if harmony else [],
            },
            "total_tokens": prompt + made,
        }

    def _event(self, name: str, fields: dict[str, Any]) -> None:
        body = dumps({**fields, "sequence_number": self._number, "type": name})
        if "text" in fields and "part" not in fields:  # `….done` events carry their text behind the number
            text = {"text": fields["text"], "type": name}
            rest = {key: value for key, value in fields.items() if key != "text"}
            body = dumps({**rest, "sequence_number": self._number, **text})
        self._number += 1
        self.request.write(b"event: %b\ndata: %b\n\n" % (name.encode(), body))
