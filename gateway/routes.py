"""The routes to the engine: the whole list of what may reach it. Pure data."""

from typing import NamedTuple

from gateway.context import Api


class Route(NamedTuple):
    """One public route that the engine serves.

    `generates`: it makes tokens, so it takes part in token limits and its output is bounded.
    `prompt_fields`: where the text stands that the prompt estimate is made of.
    """

    path: str
    api: Api
    generates: bool
    prompt_fields: tuple[str, ...]


ENGINE_ROUTES = (
    Route("/v1/chat/completions", Api.CHAT, generates=True, prompt_fields=("messages", "tools", "response_format")),
    Route("/v1/completions", Api.COMPLETIONS, generates=True, prompt_fields=("prompt",)),
    Route("/v1/responses", Api.RESPONSES, generates=True, prompt_fields=("input", "instructions", "tools")),
    Route("/v1/messages", Api.MESSAGES, generates=True, prompt_fields=("messages", "system", "tools")),
    Route("/v1/messages/count_tokens", Api.MESSAGES, generates=False, prompt_fields=()),
    Route("/v1/embeddings", Api.OTHER, generates=False, prompt_fields=("input",)),
    Route("/v1/rerank", Api.OTHER, generates=False, prompt_fields=("query", "documents")),
    Route("/v1/score", Api.OTHER, generates=False, prompt_fields=("text_1", "text_2", "queries", "documents")),
    Route("/tokenize", Api.OTHER, generates=False, prompt_fields=()),
    Route("/detokenize", Api.OTHER, generates=False, prompt_fields=()),
)
