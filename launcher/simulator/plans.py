"""Deciding what a sequence will say before it starts: text to tokens, cut by limits and stop strings."""

from __future__ import annotations

import random
import zlib
from typing import Any

from launcher.simulator import answers
from launcher.simulator.engine import Plan
from launcher.simulator.errors import ApiError, dumps
from launcher.simulator.knobs import Knobs
from launcher.simulator.params import Params, as_object
from launcher.simulator.prompts import question
from launcher.simulator.schema import minimal
from launcher.simulator.tokenizer import RETURN, pieces


def seed_of(params: Params, prompt: list[int], index: int) -> int:
    """Which variant to say: fixed by the prompt when greedy, by the seed when there is one, else by chance."""
    if params.temperature == 0:
        return zlib.crc32(repr(prompt).encode())
    if params.seed is not None:
        return zlib.crc32(repr((params.seed, index, prompt)).encode())
    return random.getrandbits(32)


def chat_plan(  # noqa: PLR0917
    body: dict[str, Any],
    messages: list[dict[str, Any]],
    prompt: list[int],
    params: Params,
    budget: int,
    index: int,
    knobs: Knobs,
) -> Plan:
    """What one sequence of a chat says: a tool call, JSON, or an answer in Markdown."""
    asked = question(messages)
    reasoning, content = answers.answer(asked, seed_of(params, prompt, index))
    reasoning = reasoning if knobs.reasoning else ""
    tool = called_tool(body, asked)
    if tool is not None:
        arguments = dumps(minimal(tool.get("parameters") or {})).decode()
        return build(reasoning, arguments, params, budget, knobs, tool=str(tool.get("name")))
    structured = structured_text(body)
    return build(reasoning, content if structured is None else structured, params, budget, knobs)


def build(reasoning: str, content: str, params: Params, budget: int, knobs: Knobs, *, tool: str | None = None) -> Plan:
    """Tokens of hidden, reasoning and answer parts, prolonged or cut to what the parameters say."""
    thought = pieces(reasoning)
    hidden = knobs.hidden_tokens
    planned = [*([""] * hidden), *thought, *(pieces(content) or [" "])]
    least = budget if params.ignore_eos else min(params.min_tokens, budget)
    again = pieces(content) or [" "]
    while len(planned) < least:
        planned += ["\n\n", *again]
    # A model told to go on past its end stops at the limit; one that merely had a minimum stops there.
    if params.ignore_eos or len(planned) >= budget:
        planned, finish = planned[:budget], "length"
    else:
        finish = "stop" if tool is None else "tool_calls"
    reason: str | int | None = RETURN if finish != "length" and knobs.reasoning else None
    emitted = planned
    found = _find_stop(planned, params) if params.stop else None
    if found is not None:
        stop, end, keep = found
        planned, emitted = planned[:end], _cut(planned[:end], keep)
        finish, reason = "stop", stop
    return Plan(planned, emitted, finish, reason, min(hidden, len(planned)), len(thought), tool)


def _find_stop(planned: list[str], params: Params) -> tuple[str, int, int] | None:
    """(stop string, tokens generated when it is complete, characters to keep), of the stop string complete first."""
    text, best = "".join(planned), None
    free = len("".join(planned[: params.min_tokens]))
    for stop in params.stop:
        at = text.find(stop)
        while at >= 0 and at + len(stop) <= free:
            at = text.find(stop, at + 1)
        if at >= 0 and (best is None or at + len(stop) < best[1]):
            best = (stop, at + len(stop), at)
    if best is None:
        return None
    length, end = 0, 0
    while length < best[1]:
        length += len(planned[end])
        end += 1
    return best[0], end, best[1] if params.keep_stop else best[2]


def _cut(planned: list[str], keep: int) -> list[str]:
    emitted = []
    for piece in planned:
        emitted.append(piece[:keep])
        keep -= min(keep, len(piece))
    return emitted


def called_tool(body: dict[str, Any], asked: str) -> dict[str, Any] | None:
    """The function to call: the one named, any when one is required, else one the user asks to "call"."""
    functions = [_function(tool) for tool in body.get("tools") or [] if isinstance(tool, dict)]
    functions = [function for function in functions if function.get("name")]
    choice = body.get("tool_choice", "auto")
    if not functions or choice == "none":
        return None
    if isinstance(choice, dict):
        if choice.get("type") in ("any", "auto", "none"):  # the Anthropic spelling
            choice = {"any": "required"}.get(choice["type"], choice["type"])
        else:
            name = _function(choice).get("name")
            return next((function for function in functions if function["name"] == name), None)
    if choice in ("required", "any"):
        return functions[0]
    if choice == "auto":
        return next((each for each in functions if f"call {each['name']}" in asked), None)
    return None


def _function(tool: dict[str, Any]) -> dict[str, Any]:
    """Name and parameters of a tool, nested (chat), flat (responses) or as `input_schema` (messages)."""
    inner = tool.get("function")
    flat = inner if isinstance(inner, dict) else tool
    return {"name": flat.get("name"), "parameters": flat.get("parameters") or flat.get("input_schema")}


def structured_text(body: dict[str, Any]) -> str | None:
    """The answer that a response format or structured-output request dictates, or None."""
    outputs = as_object(body, "structured_outputs")
    if outputs.get("choice"):
        return str(outputs["choice"][0])
    if outputs.get("json"):
        return dumps(minimal(outputs["json"])).decode()
    form = as_object(body, "response_format") or as_object(as_object(body, "text"), "format")
    match form.get("type"):
        case "json_object":
            return '{"simulated":true}'
        case "json_schema":
            holder = form.get("json_schema", form)
            if not isinstance(holder, dict) or "schema" not in holder:
                raise ApiError("response_format of type json_schema needs a json_schema with a schema")
            return dumps(minimal(holder["schema"])).decode()
    return None
