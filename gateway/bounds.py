"""How much one request may ask for: each number, list and schema that costs the engine time or memory. Pure.

The bounds are `gateway.max_*`; what they answer is in docs/security.md.
"""

from gateway.config import GatewaySettings
from gateway.context import Api
from gateway.errors import BadRequest
from gateway.fields import Fields, bound_bytes, bound_length, count, decode, kind_of, read
from gateway.routes import Route

MAX_STOP_BYTES = 8192  # each of the texts is searched for at each token
_TEXTS = ("stop", "stop_sequences", "bad_words")
_TOKEN_IDS = ("stop_token_ids", "allowed_token_ids", "logprob_token_ids", "logit_bias")
_TOOLS = ("tools", "functions")
# each becomes a grammar that the engine compiles before the first token (vLLM CVE-2025-48943, CVE-2025-48944)
_SCHEMAS = (
    "response_format",
    "structured_outputs",
    "text",
    "output_config",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
)
_LOGPROBS = ("logprobs", "top_logprobs", "prompt_logprobs")
# what has a bound here, but for the prompts themselves: most bodies hold none of it
BOUNDED = frozenset({*_TEXTS, *_TOKEN_IDS, *_TOOLS, *_SCHEMAS, *_LOGPROBS, "n", "best_of"})
_HAVE_PROMPTS = frozenset({Api.COMPLETIONS, Api.OTHER})
_INPUTS = ("input", "documents", "queries", "text_1", "text_2", "data_1", "data_2")


def check_bounds(fields: Fields, settings: GatewaySettings) -> None:
    """Refuse lists and schemas that are too long. Raises BadRequest."""
    stop = read(fields, "stop", (str, list), "a string or an array of strings")
    if stop is not None:
        bound_bytes(fields, "stop", MAX_STOP_BYTES)
    for name in _TEXTS:
        bound_length(fields, name, settings.max_stop)
    for name in _TOKEN_IDS:
        bound_length(fields, name, settings.max_token_ids)
    for name in _TOOLS:
        bound_bytes(fields, name, settings.max_tools_bytes)
        bound_length(fields, name, settings.max_tools)
    for name in _SCHEMAS:
        bound_bytes(fields, name, settings.max_schema_bytes)


def choices(fields: Fields, settings: GatewaySettings) -> int:
    """Return how many answers are asked for to each prompt."""
    n = count(fields, "n", 1, settings.max_choices)
    best_of = count(fields, "best_of", 1, settings.max_choices)
    return max(n or 1, best_of or 1)


def prompts(route: Route, fields: Fields, settings: GatewaySettings) -> int:
    """Return how many prompts a completions request carries; a list of token ids is one prompt."""
    if route.api not in _HAVE_PROMPTS:
        return 1
    if route.api is Api.OTHER:
        _bound_inputs(fields, settings.max_inputs)
    if route.api is not Api.COMPLETIONS or "prompt" not in fields:
        return 1
    prompt = decode(fields["prompt"], "prompt")
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], str | list):
        return bound_length(fields, "prompt", settings.max_prompts)
    return 1


def _bound_inputs(fields: Fields, most: int) -> None:
    for name in _INPUTS:
        value = decode(fields[name], name) if name in fields else None
        if not (isinstance(value, list) and value and isinstance(value[0], int)):  # token ids are one text
            bound_length(fields, name, most)


def logprobs(fields: Fields, settings: GatewaySettings) -> int:
    """Return how many log probabilities are asked for at each token of the answer, the token's own among them."""
    most, asked = settings.max_logprobs, 0
    for name in _LOGPROBS:
        value = read(fields, name, (bool, int), "a boolean or an integer")
        if value is None or value is False:
            continue
        if value is not True and not 0 <= value <= most:  # vLLM takes -1 for the whole vocabulary
            raise BadRequest(
                f"`{name}` must be between 0 and {most}, got {kind_of(value)}: {value}.",
                code="value_too_large" if value > most else "value_out_of_range",
                param=name,
            )
        if name != "prompt_logprobs":
            asked = max(asked, int(value) + (value is not True))
    return asked


def check_logprobs(each: int, tokens: int, settings: GatewaySettings) -> None:
    """Refuse an answer of more log probabilities than may be: it is held in memory as a whole."""
    if each * tokens > settings.max_logprob_values:
        raise BadRequest(
            f"`logprobs` for {tokens} tokens at {each} each are {each * tokens} values; at most "
            f"{settings.max_logprob_values} are allowed: ask for fewer, for fewer choices or for a shorter answer.",
            code="value_too_large",
            param="logprobs",
        )
