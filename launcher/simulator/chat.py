"""POST /v1/chat/completions: reasoning then answer, streamed or whole, with n, tools, logprobs and usage."""

from __future__ import annotations

import secrets
from typing import Any

from launcher.simulator import faults, usage
from launcher.simulator.engine import Generation, Sequence
from launcher.simulator.errors import ApiError, dumps, error_frame
from launcher.simulator.logprobs import chat_logprobs
from launcher.simulator.params import Params, check_characters, check_prompt, check_ranges, output_budget, read
from launcher.simulator.plans import chat_plan
from launcher.simulator.prompts import check_conversation, messages_of, render, text_of
from launcher.simulator.service import Answer, Call
from launcher.simulator.tokenizer import token

DONE = b"data: [DONE]\n\n"


def handle(call: Call) -> None:
    """Answer one chat request."""
    params = read(
        call.body,
        max_fields=("max_completion_tokens", "max_tokens"),
        force_usage=call.service.options.force_include_usage,
    )
    messages = messages_of(call.body)
    model = call.check_model()
    call.check_engine()
    answer = ChatAnswer(call, params, "chatcmpl-", model)
    answer.generations = [chat_generation(call, messages, params)]
    faults.run(answer, keep_alive=True)


def chat_generation(call: Call, messages: list[dict[str, Any]], params: Params) -> Generation:
    """The engine's work for a conversation, after the checks that need it rendered."""
    service, options = call.service, call.service.options
    check_conversation(messages, service.model)
    check_ranges(params)
    tools = call.body.get("tools")
    auto = tools and call.body.get("tool_choice", "auto") == "auto"
    if auto and not options.auto_tool_choice and not service.knobs.reasoning:
        raise ApiError('"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set')
    check_characters(sum(len(text_of(each.get("content"))) for each in messages), options.max_model_len)
    prompt = render(messages, tools if isinstance(tools, list) else None)
    check_prompt(len(prompt), options.max_model_len)
    budget = output_budget(params, len(prompt), options.max_model_len)
    plans = [chat_plan(call.body, messages, prompt, params, budget, index, service.knobs) for index in range(params.n)]
    return Generation(prompt, plans, budget, priority=params.priority, salt=params.salt)


class ChatAnswer(Answer):
    """Writes one chat's chunks or its whole answer, keys in the order vLLM writes them."""

    def __init__(self, call: Call, params: Params, prefix: str, model: str) -> None:
        super().__init__(call, params, prefix)
        self.model = model
        self.reasons = self.service.knobs.reasoning
        self._opened = False
        self._tool_ids: dict[int, str] = {}
        head = {"id": self.id, "object": "chat.completion.chunk", "created": self.created, "model": model}
        self._head = b"data: " + dumps(head)[:-1] + b',"choices":['

    # streaming

    def on_token(self, sequence: Sequence, piece: str, finish: str | None) -> None:
        """Write one token."""
        if not self._opened:
            self._open(sequence.generation)
        plan = sequence.plan
        place = sequence.produced - 1 - plan.hidden
        if finish == "abort":
            self._chunk(sequence, {"content": ""}, None, finish)
            return
        if place < 0:
            if finish is None and not self.params.token_ids and not self.params.want_logprobs:
                return
            delta = {}
        elif plan.tool is not None and place >= plan.reasoning:
            delta = self._tool_delta(sequence, piece, first=place == plan.reasoning)
        else:
            delta = {"reasoning" if place < plan.reasoning else "content": piece}
        if finish in ("stop", "tool_calls"):
            self._chunk(sequence, delta, piece, None)
            self._chunk(sequence, {}, None, finish)
        else:
            self._chunk(sequence, delta, piece, finish)

    def _open(self, generation: Generation) -> None:
        self._opened = True
        tail = b',"prompt_token_ids":%b,"prompt_text":null' % dumps(
            generation.prompt if self.params.token_ids else None
        )
        if self.params.continuous_usage:
            tail = b',"usage":' + dumps(self._continuous(generation, 0, None)) + tail
        for index in range(len(generation.sequences)):
            choice = {"index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": None}
            body = dumps({**choice, "finish_reason": None})
            self.request.write(self._head + body + b"]" + tail + b"}\n\n")

    def _chunk(self, sequence: Sequence, delta: dict[str, Any], piece: str | None, finish: str | None) -> None:
        logprobs = None
        if self.params.want_logprobs and piece is not None:
            logprobs = chat_logprobs([piece], self.params.top_logprobs)
        choice: dict[str, Any] = {"index": sequence.index, "delta": delta, "logprobs": logprobs}
        choice["finish_reason"] = finish
        if finish is not None:
            choice["stop_reason"] = sequence.plan.stop_reason if finish != "abort" else None
        choice["token_ids"] = None
        if self.params.token_ids:
            choice["token_ids"] = [] if piece is None else [token(sequence.plan.pieces[sequence.produced - 1])]
        tail = b""
        if self.params.continuous_usage:
            tail = b',"usage":' + dumps(self._continuous(sequence.generation, sequence.produced, sequence))
        elif finish is not None and not self.params.include_usage:  # at each choice's end, as in vLLM 0.32's source
            tail = b',"system_fingerprint":"%b"' % self.service.fingerprint.encode()
        self.request.write(self._head + dumps(choice) + b"]" + tail + b"}\n\n")

    def _tool_delta(self, sequence: Sequence, piece: str, *, first: bool) -> dict[str, Any]:
        function: dict[str, Any] = {"arguments": piece}
        if not first:
            return {"tool_calls": [{"index": 0, "function": function}]}
        identity = {"id": self._tool_id(sequence), "type": "function", "index": 0}
        return {"tool_calls": [{**identity, "function": {"name": sequence.plan.tool, **function}}]}

    def _tool_id(self, sequence: Sequence) -> str:
        return self._tool_ids.setdefault(sequence.index, f"chatcmpl-tool-{secrets.token_hex(8)}")

    def _continuous(self, generation: Generation, produced: int, sequence: Sequence | None) -> dict[str, Any]:
        thought = None
        if self.reasons:
            thought = {"reasoning_tokens": usage.reasoning_tokens(sequence) if sequence else 0}
        return {**usage.counts(len(generation.prompt), produced), "completion_tokens_details": thought}

    # the end

    def complete(self) -> None:
        """Write the end, or the whole answer."""
        generation = self.generations[0]
        if not self.params.stream:
            self.call.json(200, self.whole(generation))
            return
        if self.params.include_usage:
            total = usage.counts(len(generation.prompt), generation.produced)
            if self.service.options.prompt_tokens_details:
                total["prompt_tokens_details"] = {"cached_tokens": generation.cached, "created_cache_tokens": 0}
            if self.reasons:  # a llama's last chunk has no such key; what a reasoning model's has was not recorded
                total["completion_tokens_details"] = usage.details(generation, reasons=True)
            tail = dumps({"usage": total, "system_fingerprint": self.service.fingerprint})[1:]
            self.request.write(self._head + b"]," + tail + b"\n\n")
        self.request.write(DONE)
        self.request.end()

    def error(self, error: ApiError) -> None:
        """Write that the engine died."""
        self.request.write(error_frame(error))
        self.request.write(DONE)
        self.request.end()

    def whole(self, generation: Generation) -> dict[str, Any]:
        """The answer to a request that does not stream."""
        cached = self.service.options.prompt_tokens_details
        return {
            "id": self.id,
            "object": "chat.completion",
            "created": self.created,
            "model": self.model,
            "choices": [self._choice(sequence) for sequence in generation.sequences],
            "service_tier": None,
            "system_fingerprint": self.service.fingerprint,
            "usage": usage.full([generation], reasons=self.reasons, cached=cached),
            "prompt_logprobs": None,
            "prompt_token_ids": generation.prompt if self.params.token_ids else None,
            "prompt_text": None,
            "kv_transfer_params": None,
            "ec_transfer_params": None,
            "metrics": None,
        }

    def _choice(self, sequence: Sequence) -> dict[str, Any]:
        plan = sequence.plan
        said = plan.emitted[plan.hidden : sequence.produced]
        reasoning, content = "".join(said[: plan.reasoning]), "".join(said[plan.reasoning :])
        message: dict[str, Any] = {"role": "assistant", "content": content or None}
        if not reasoning and not content:
            message["content"] = ""
        message |= {"refusal": None, "annotations": None, "audio": None, "function_call": None}
        if plan.tool is not None and content:
            function = {"name": plan.tool, "arguments": content}
            message["content"] = None
            message["tool_calls"] = [{"id": self._tool_id(sequence), "type": "function", "function": function}]
        message["reasoning"] = reasoning or None
        tokens = plan.pieces[: sequence.produced]
        return {
            "index": sequence.index,
            "message": message,
            "logprobs": chat_logprobs(tokens, self.params.top_logprobs) if self.params.want_logprobs else None,
            "finish_reason": sequence.finish,
            "stop_reason": plan.stop_reason,
            "token_ids": [token(each) for each in tokens] if self.params.token_ids else None,
            "routed_experts": None,
        }
