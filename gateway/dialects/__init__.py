"""Where usage, errors and ends stand in each protocol."""

from gateway.context import Api, Usage
from gateway.dialects import anthropic, openai, responses


def answer_usage(api: Api, body: bytes) -> Usage | None:
    """Usage of an answer in one piece, as the engine reports it; None where it reports none."""
    match api:
        case Api.RESPONSES:
            return responses.answer_usage(body)
        case Api.MESSAGES:
            return anthropic.answer_usage(body)
        case _:
            return openai.answer_usage(body)
