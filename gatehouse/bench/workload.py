"""What a benchmark asks: prompts made of common English words, near one token each in today's vocabularies.

The exact number of prompt tokens is what the server reports; the report shows that, not the number asked for.
"""

import random
import re
from dataclasses import dataclass, field
from typing import Any, Literal

Api = Literal["chat", "completions"]

_WORDS = re.findall(
    r"\w+",
    """
    time year people way day man thing woman life child world school state family student group country problem
    hand part place case week company system program question work government number night point home water room
    mother area money story fact month lot right study book eye job word business issue side kind head house
    service friend father power hour game line end member law car city community name president team minute idea
    body information back parent face others level office door health person art war history party result change
    morning reason research girl guy moment air teacher force education
    """,
)
_GOLDEN = (5**0.5 - 1) / 2
PATHS: dict[Api, str] = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}


@dataclass(frozen=True)
class Workload:
    """One kind of request. `shared_prefix` is the share (0 to 1) of each prompt that all of them begin with.

    With a `spread` of 0.5 the answers have 0.5 to 1.5 times `output_tokens`: streams that end together begin together,
    too, and what is measured then is how the engine takes bursts.
    """

    model: str
    api: Api = "chat"
    input_tokens: int = 128
    output_tokens: int = 128
    shared_prefix: float = 0.0
    spread: float = 0.0
    # makes the answers as long as asked for; engines other than vLLM may not know it
    ignore_eos: bool = True
    seed: int = 0
    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """Where it is sent."""
        return PATHS[self.api]

    def prompt(self, number: int) -> str:
        """The prompt of request `number`: the same for the same seed, different for every number."""
        shared = round(self.input_tokens * self.shared_prefix)
        words = random.Random(self.seed).choices(_WORDS, k=shared)  # noqa: S311 - not a secret
        words += random.Random(f"{self.seed}/{number}").choices(_WORDS, k=self.input_tokens - shared)  # noqa: S311
        return " ".join(words)

    def answer_tokens(self, number: int) -> int:
        """How long the answer to request `number` shall be.

        Multiples of the golden ratio fill the unit interval evenly, so any run of requests has the same mean length.
        """
        place = number * _GOLDEN % 1
        return max(round(self.output_tokens * (1 + self.spread * (2 * place - 1))), 1)

    def body(self, number: int) -> dict[str, Any]:
        """The JSON body of request `number`; it streams and asks for the usage."""
        prompt = self.prompt(number)
        asked: dict[str, Any] = (
            {"messages": [{"role": "user", "content": prompt}]} if self.api == "chat" else {"prompt": prompt}
        )
        body = {"model": self.model, **asked, "max_tokens": self.answer_tokens(number), "temperature": 0.0}
        if self.ignore_eos:
            body["ignore_eos"] = True
        return {**body, "stream": True, "stream_options": {"include_usage": True}, **self.fields}
