"""POST /v1/completions: text goes on, for one prompt or several, as strings or as tokens."""

from __future__ import annotations

from typing import Any

from launcher.simulator import answers, faults, usage
from launcher.simulator.chat import DONE
from launcher.simulator.engine import Generation, Sequence
from launcher.simulator.errors import ApiError, ValidationError, dumps, error_frame
from launcher.simulator.logprobs import completion_logprobs
from launcher.simulator.params import Params, check_characters, check_ranges, output_budget, read
from launcher.simulator.plans import build, seed_of, structured_text
from launcher.simulator.service import Answer, Call
from launcher.simulator.tokenizer import decode, encode, token

_DEFAULT_MAX_TOKENS = 16


def handle(call: Call) -> None:
    """Answer one completion request."""
    force = call.service.options.force_include_usage
    params = read(call.body, max_fields=("max_tokens",), force_usage=force)
    prompts = _prompts(call.body, call.service.options.max_model_len)
    model = call.check_model()
    call.check_engine()
    check_ranges(params)
    answer = CompletionAnswer(call, params, "cmpl-", model)
    answer.generations = [_generation(call, prompt, params) for prompt in prompts]
    faults.run(answer, keep_alive=True)


def _prompts(body: dict[str, Any], max_model_len: int) -> list[list[int]]:
    prompt = body.get("prompt")
    if isinstance(prompt, str):
        check_characters(len(prompt), max_model_len)
        return [encode(prompt)]
    if isinstance(prompt, list) and prompt:
        if all(isinstance(each, int) for each in prompt):
            return [prompt]
        if all(isinstance(each, str) for each in prompt):
            check_characters(max(map(len, prompt)), max_model_len)
            return [encode(each) for each in prompt]
        if all(isinstance(each, list) for each in prompt):
            return prompt
        raise ValidationError("string_type", "body.prompt", "Input should be a valid string", prompt)
    raise ApiError("Either prompt or prompt_embeds must be provided and non-empty.")


def _generation(call: Call, prompt: list[int], params: Params) -> Generation:
    service = call.service
    budget = output_budget(params, len(prompt), service.options.max_model_len, _DEFAULT_MAX_TOKENS)
    if budget < 1:
        raise ApiError(
            f"max_tokens must be at least 1, got {budget}. (parameter=max_tokens, value={budget})", param="max_tokens"
        )
    plans = []
    for index in range(params.n):
        text = structured_text(call.body) or answers.completion(seed_of(params, prompt, index))
        plans.append(build("", text, params, budget, service.knobs))
    return Generation(prompt, plans, budget, priority=params.priority, salt=params.salt)


class CompletionAnswer(Answer):
    """Writes one completion's chunks or its whole answer. Choices are numbered through all prompts."""

    def __init__(self, call: Call, params: Params, prefix: str, model: str) -> None:
        super().__init__(call, params, prefix)
        self.model = model
        self._echo = bool(call.body.get("echo"))
        head = {"id": self.id, "object": "text_completion", "created": self.created, "model": model}
        self._head = b"data: " + dumps(head)[:-1] + b',"choices":['

    def _index(self, sequence: Sequence) -> int:
        return self.generations.index(sequence.generation) * self.params.n + sequence.index

    def on_token(self, sequence: Sequence, piece: str, finish: str | None) -> None:
        """Write one token."""
        first = sequence.produced == 1
        if self._echo and first and not self.params.token_ids:  # vLLM leaves it out beside token ids
            piece = decode(sequence.generation.prompt) + piece
        ids = [] if finish == "abort" else [token(sequence.plan.pieces[sequence.produced - 1])]
        prompt = sequence.generation.prompt if first and (self._echo or self.params.token_ids) else None
        if finish == "stop":
            self._chunk(sequence, piece, ids, None, prompt)
            self._chunk(sequence, "", [], finish)
        else:
            self._chunk(sequence, piece, ids, finish, prompt)

    def _chunk(
        self, sequence: Sequence, text: str, ids: list[int], finish: str | None, prompt: list[int] | None = None
    ) -> None:
        logprobs = None
        if self.params.want_logprobs and text:
            logprobs = completion_logprobs([text], self.params.top_logprobs)
        choice = {
            "index": self._index(sequence),
            "text": text,
            "logprobs": logprobs,
            "finish_reason": finish,
            "stop_reason": sequence.plan.stop_reason if finish == "stop" else None,
            "prompt_token_ids": prompt,
            "token_ids": ids if self.params.token_ids else None,
        }
        tail = b""
        if self.params.continuous_usage:
            tail = b',"usage":' + dumps(usage.counts(len(sequence.generation.prompt), sequence.produced))
        elif finish is not None and not self.params.include_usage:  # at each choice's end, as in vLLM 0.32's source
            tail = b',"system_fingerprint":"%b"' % self.service.fingerprint.encode()
        self.request.write(self._head + dumps(choice) + b"]" + tail + b"}\n\n")

    def complete(self) -> None:
        """Write the end, or the whole answer."""
        cached = self.service.options.prompt_tokens_details
        if not self.params.stream:
            self.call.json(200, self._answer())
            return
        if self.params.include_usage:
            prompt = sum(len(generation.prompt) for generation in self.generations)
            total = usage.counts(prompt, sum(generation.produced for generation in self.generations))
            if cached:
                hits = sum(generation.cached for generation in self.generations)
                total["prompt_tokens_details"] = {"cached_tokens": hits}
            tail = dumps({"usage": total, "system_fingerprint": self.service.fingerprint})[1:]
            self.request.write(self._head + b"]," + tail + b"\n\n")
        self.request.write(DONE)
        self.request.end()

    def error(self, error: ApiError) -> None:
        """Write that the engine died."""
        self.request.write(error_frame(error))
        self.request.write(DONE)
        self.request.end()

    def _answer(self) -> dict[str, Any]:
        cached = self.service.options.prompt_tokens_details
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
            "choices": [self._choice(each) for generation in self.generations for each in generation.sequences],
            "service_tier": None,
            "system_fingerprint": self.service.fingerprint,
            "usage": usage.full(self.generations, reasons=False, cached=cached),
            "kv_transfer_params": None,
            "ec_transfer_params": None,
            "metrics": None,
        }

    def _choice(self, sequence: Sequence) -> dict[str, Any]:
        plan, prompt = sequence.plan, sequence.generation.prompt
        said = plan.emitted[: sequence.produced]
        text = (decode(prompt) if self._echo else "") + "".join(said)
        return {
            "index": self._index(sequence),
            "text": text,
            "logprobs": completion_logprobs(said, self.params.top_logprobs) if self.params.want_logprobs else None,
            "finish_reason": sequence.finish,
            "stop_reason": plan.stop_reason,
            "token_ids": [token(each) for each in plan.pieces[: sequence.produced]] if self.params.token_ids else None,
            "prompt_logprobs": None,
            "prompt_token_ids": prompt if self.params.token_ids else None,
            "routed_experts": None,
        }
