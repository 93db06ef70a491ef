"""POST /v1/messages and /v1/messages/count_tokens: the Anthropic API as vLLM speaks it."""

from __future__ import annotations

import json
import secrets
from typing import Any

from launcher.simulator import faults
from launcher.simulator.chat import chat_generation
from launcher.simulator.engine import Generation, Sequence
from launcher.simulator.errors import ApiError, anthropic_error_event, dumps, missing
from launcher.simulator.params import Params, read
from launcher.simulator.prefix_cache import BLOCK
from launcher.simulator.prompts import messages_of, render, text_of
from launcher.simulator.service import Answer, Call

_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


def handle(call: Call) -> None:
    """Answer one messages request."""
    if call.body.get("max_tokens") is None:
        raise missing("max_tokens", call.body)
    params = read(call.body, max_fields=("max_tokens",))
    messages = _conversation(call.body)
    model = call.check_model()
    call.check_engine()
    answer = MessageAnswer(call, params, "chatcmpl-", model)
    answer.generations = [chat_generation(call, messages, params)]
    faults.run(answer)


def count_tokens(call: Call) -> None:
    """Say how many tokens a conversation has."""
    messages = _conversation(call.body)
    call.check_model()
    tokens = len(render(messages, call.body.get("tools")))
    call.json(200, {"input_tokens": tokens, "context_management": {"original_input_tokens": tokens}})


def _conversation(body: dict[str, Any]) -> list[dict[str, Any]]:
    messages = messages_of(body)
    system = body.get("system")
    return [{"role": "system", "content": text_of(system)}, *messages] if system else messages


class MessageAnswer(Answer):
    """Writes one message's events or the whole message. A stream has one block open at a time, and no [DONE]."""

    def __init__(self, call: Call, params: Params, prefix: str, model: str) -> None:
        super().__init__(call, params, prefix)
        self.model = model
        self._block = -1
        self._kind: str | None = None

    def on_token(self, sequence: Sequence, piece: str, finish: str | None) -> None:
        """Write one token."""
        if finish == "abort":
            return
        plan = sequence.plan
        place = sequence.produced - 1 - plan.hidden
        if self._kind is None and self._block < 0:
            self._start(sequence.generation)
        if place < 0:
            return
        if place < plan.reasoning:
            self._delta("thinking", {"type": "thinking_delta", "thinking": piece}, sequence)
        elif plan.tool is not None:
            self._delta("tool_use", {"type": "input_json_delta", "partial_json": piece}, sequence)
        else:
            self._delta("text", {"type": "text_delta", "text": piece}, sequence)

    def _start(self, generation: Generation) -> None:
        usage = {"input_tokens": len(generation.prompt), "output_tokens": 0}
        message: dict[str, Any] = {"id": self.id, "type": "message", "role": "assistant", "content": []}
        message |= {"model": self.model, "stop_reason": None, "stop_sequence": None, "usage": usage}
        self._event("message_start", {"message": message})
        self._block = 0

    def _delta(self, kind: str, delta: dict[str, Any], sequence: Sequence) -> None:
        if kind != self._kind:
            self._close_block()
            block: dict[str, Any] = {"type": kind}
            match kind:
                case "thinking":
                    block["thinking"] = ""
                case "text":
                    block["text"] = ""
                case _:
                    block |= {"id": f"toolu_{secrets.token_hex(8)}", "name": sequence.plan.tool, "input": {}}
            self._kind = kind
            self._event("content_block_start", {"content_block": block, "index": self._block})
        self._event("content_block_delta", {"delta": delta, "index": self._block})

    def _close_block(self) -> None:
        if self._kind is None:
            return
        if self._kind == "thinking":
            signed = {"type": "signature_delta", "signature": secrets.token_hex(16)}
            self._event("content_block_delta", {"delta": signed, "index": self._block})
        self._event("content_block_stop", {"index": self._block})
        self._block += 1
        self._kind = None

    def _event(self, name: str, fields: dict[str, Any]) -> None:
        self.request.write(b"event: %b\ndata: %b\n\n" % (name.encode(), dumps({"type": name, **fields})))

    def complete(self) -> None:
        """Write the end, or the whole answer."""
        generation = self.generations[0]
        if not self.params.stream:
            self.call.json(200, self._whole(generation))
            return
        sequence = generation.sequences[0]
        if sequence.finish == "abort":
            self.error(ApiError("aborted"))
            return
        self._close_block()
        reason, stop = _stop(sequence)
        usage = self._usage(generation, sequence)
        self._event("message_delta", {"delta": {"stop_reason": reason, "stop_sequence": stop}, "usage": usage})
        self._event("message_stop", {})
        self.request.end()

    def error(self, error: ApiError) -> None:  # noqa: ARG002  # it has no place here
        """Write that the engine died."""
        self.request.write(anthropic_error_event())
        self.request.end()

    def _whole(self, generation: Generation) -> dict[str, Any]:
        sequence = generation.sequences[0]
        plan = sequence.plan
        said = plan.emitted[plan.hidden :]
        reasoning, content = "".join(said[: plan.reasoning]), "".join(said[plan.reasoning :])
        blocks: list[dict[str, Any]] = []
        if reasoning:
            blocks.append({"type": "thinking", "thinking": reasoning, "signature": secrets.token_hex(16)})
        if plan.tool is not None and content:
            given = json.loads(content) if sequence.finish == "tool_calls" else {}
            blocks.append(
                {"type": "tool_use", "id": f"toolu_{secrets.token_hex(8)}", "name": plan.tool, "input": given}
            )
        elif content or not blocks:
            blocks.append({"type": "text", "text": content})
        reason, stop = _stop(sequence)
        message = {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "content": blocks,
            "model": self.model,
            "stop_reason": reason,
        }
        if stop is not None:
            message["stop_sequence"] = stop
        return {**message, "usage": self._usage(generation, sequence)}

    def _usage(self, generation: Generation, sequence: Sequence) -> dict[str, int]:
        """With --enable-prompt-tokens-details vLLM keeps cached and newly cached input apart from input_tokens."""
        prompt = len(generation.prompt)
        if not self.call.service.options.prompt_tokens_details:
            return {"input_tokens": prompt, "output_tokens": sequence.produced}
        read = generation.cached
        created = max(0, prompt // BLOCK * BLOCK - read)
        return {
            "input_tokens": prompt - read - created,
            "output_tokens": sequence.produced,
            "cache_creation_input_tokens": created,
            "cache_read_input_tokens": read,
        }


def _stop(sequence: Sequence) -> tuple[str, str | None]:
    matched = sequence.plan.stop_reason
    if sequence.finish == "stop" and isinstance(matched, str):
        return "stop_sequence", matched
    return _STOP_REASONS.get(sequence.finish or "", "end_turn"), None
