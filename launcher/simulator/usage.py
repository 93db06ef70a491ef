"""Usage objects in the forms that vLLM's answers carry them, keys in recorded order."""

from __future__ import annotations

from typing import Any

from launcher.simulator.engine import Generation, Sequence


def reasoning_tokens(sequence: Sequence) -> int:
    """How many of the tokens produced so far were reasoning."""
    return max(0, min(sequence.produced - sequence.plan.hidden, sequence.plan.reasoning))


def details(generation: Generation, *, reasons: bool) -> dict[str, int] | None:
    """`completion_tokens_details`: reasoning tokens where the model reasons, null where it cannot."""
    if not reasons:
        return None
    return {"reasoning_tokens": sum(reasoning_tokens(each) for each in generation.sequences)}


def full(generations: list[Generation], *, reasons: bool, cached: bool) -> dict[str, Any]:
    """Usage of a whole answer, summed over its prompts; `cached` is --enable-prompt-tokens-details."""
    prompt = sum(len(generation.prompt) for generation in generations)
    completion = sum(generation.produced for generation in generations)
    hits = sum(generation.cached for generation in generations)
    shown = {"cached_tokens": hits, "created_cache_tokens": None, "multimodal_tokens": None}
    thought = [details(generation, reasons=reasons) for generation in generations]
    return {
        "prompt_tokens": prompt,
        "total_tokens": prompt + completion,
        "completion_tokens": completion,
        "prompt_tokens_details": shown if cached else None,
        "completion_tokens_details": (
            {"reasoning_tokens": sum(each["reasoning_tokens"] for each in thought if each)} if reasons else None
        ),
    }


def counts(prompt: int, completion: int) -> dict[str, Any]:
    """The three numbers alone, as stream chunks carry them."""
    return {
        "prompt_tokens": prompt,
        "total_tokens": prompt + completion,
        "completion_tokens": completion,
    }
