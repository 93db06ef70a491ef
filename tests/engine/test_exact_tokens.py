"""Every token that the real engine makes is in the record: against its own counters, over requests on all four APIs."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import defaultdict
from typing import Any, NamedTuple

import pytest

from tests.support.stack import Stack
from tests.support.traffic import APIS, GENERATED, PROMPT, Request, Traffic, traffic

FINISHED_REQUESTS = 128
AT_ONCE = 8
LEFT_EACH = 6  # of each kind
LATE_TOKENS = 40  # a quarter of a second's worth; measured: 0 to 3 for one choice
WORDS = ["north", "今天天气很好", "import os", "𝄞", "towers and bridges", "12345"]
SEVERAL = {
    "chat": {"n": 3},
    "completions": {"n": 2, "prompt": ["def main():", "import os", "今天"]},
}


def choices_of(request: Request) -> int:
    """How often the engine's counter has the prompt: once for each choice, whereas usage, as OpenAI's, has it once."""
    return int(request.fields.get("n", 1))


def some_text(chance: random.Random) -> str:
    """A prompt of one to a hundred words."""
    return " ".join(chance.choices(WORDS, k=chance.choice([1, 3, 10, 100])))


async def test_tokens_of_finished_requests_are_exact(stack: Stack) -> None:
    """Over 128 requests that nobody left, eight at a time, the record's sums are the engine's own counters."""
    chance = random.Random(1)
    run = secrets.token_hex(4)
    kinds = [Request(api, stream) for api in APIS for stream in (True, False)]
    kinds += [Request(api, stream, fields=fields) for api, fields in SEVERAL.items() for stream in (True, False)]
    requests = {f"whole-{run}-{n}": chance.choice(kinds) for n in range(FINISHED_REQUESTS)}
    async with traffic(stack) as sender:
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(request_id: str, request: Request) -> None:
            async with gate:
                await sender.whole(request, some_text(chance), request_id)

        before = await sender.gauges()
        await asyncio.gather(*(one(request_id, request) for request_id, request in requests.items()))
        after = await _settled(sender)
    lines = {request_id: await asyncio.to_thread(stack.logged, request_id) for request_id in requests}
    assert not [line for line in lines.values() if line["estimated"] or line["outcome"] != "complete"]
    prompt = sum(line["prompt_tokens"] * choices_of(requests[request_id]) for request_id, line in lines.items())
    generated = sum(line["completion_tokens"] for line in lines.values())
    print(f"\n{len(lines)} requests: {prompt} prompt and {generated} generated tokens, as the engine counts them")
    assert (prompt, generated) == (after[PROMPT] - before[PROMPT], after[GENERATED] - before[GENERATED])


class Left(NamedTuple):
    """A request that was left: what the engine counted for it, and its line."""

    request: Request
    prompt: float
    generated: float
    line: dict[str, Any]

    @property
    def unseen(self) -> float:
        """Generated tokens that the line does not have."""
        return self.generated - self.line["completion_tokens"]


@pytest.mark.parametrize("several", [False, True], ids=["one choice", "several"])
async def test_tokens_of_requests_that_were_left(stack: Stack, several: bool) -> None:
    """A line that claims to be exact lacks at most what the engine generated between the disconnect and its abort;
    where the engine reports nothing until the end, the line says that it is an estimate. One at a time, so that the
    engine's counters belong to one request.
    """
    chance = random.Random(2)
    run = secrets.token_hex(4)
    fields = SEVERAL if several else {api: {} for api in APIS}
    kinds = [Request(api, stream, 1500, True, dict(f)) for api, f in fields.items() for stream in (True, False)]
    for kind in kinds:
        kind.fields.update({"temperature": 1, "max_tokens": 60} if several else {})  # greedy and n exclude each other
    async with traffic(stack) as sender:
        left = [
            await _leave(sender, kind, some_text(chance), chance.uniform(0.01, 0.6), f"left-{run}-{number}-{k}")
            for number in range(LEFT_EACH)
            for k, kind in enumerate(kinds)
        ]
    _report(left)
    for each in left:
        line = each.line
        if line["outcome"] == "complete":
            assert each.unseen == 0
        elif not line["estimated"]:
            # once for each choice that had begun
            assert line["prompt_tokens"] <= each.prompt <= line["prompt_tokens"] * choices_of(each.request), line
            assert 0 <= each.unseen <= LATE_TOKENS * choices_of(each.request), line
    # an answer in one piece that had come whole by the time its client left is the engine's own figure
    in_one_piece = [each for each in left if not each.request.stream and _was_left(each)]
    assert all(each.line["estimated"] or each.unseen == 0 for each in in_one_piece)
    exact = [each for each in left if _was_left(each) and not each.line["estimated"]]
    assert len(exact) >= LEFT_EACH, "too few were left while the engine was telling its tokens"


async def _leave(sender: Traffic, request: Request, text: str, seconds: float, request_id: str) -> Left:
    before = await sender.gauges()
    await sender.cut(request, text, request_id, seconds)
    after = await _settled(sender)
    line = await asyncio.to_thread(sender.stack.logged, request_id)
    return Left(request, after[PROMPT] - before[PROMPT], after[GENERATED] - before[GENERATED], line)


async def _settled(sender: Traffic) -> dict[str, float]:
    """The engine's counters once it is idle and they stand still."""
    await sender.until_idle(0)
    known = await sender.gauges()
    while True:
        await asyncio.sleep(0.03)
        found = await sender.gauges()
        if (found[PROMPT], found[GENERATED]) == (known[PROMPT], known[GENERATED]):
            return found
        known = found


def _was_left(each: Left) -> bool:
    return each.line["outcome"] == "client_gone"


def _report(left: list[Left]) -> None:
    """Print, for each kind of request, what the lines lack (-) or have too much (+) against the engine."""
    kinds: dict[tuple[str, bool, bool], list[Left]] = defaultdict(list)
    for each in left:
        kinds[each.request.api, each.request.stream, each.line["estimated"]].append(each)
    print(
        "\napi          sent    line       requests  generated after the disconnect, or error of the estimate: tokens"
    )
    for (api, stream, estimated), found in sorted(kinds.items()):
        prompts = [round(each.line["prompt_tokens"] - each.prompt / choices_of(each.request)) for each in found]
        print(
            f"{api:12} {'stream' if stream else 'whole':7} {'estimate' if estimated else 'exact':9} {len(found):9}"
            f"  {[round(-each.unseen) for each in found]}, prompts {prompts}"
        )
