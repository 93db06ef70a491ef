"""The prompt estimate, against token counts of gpt-oss' own tokenizer recorded for a small corpus."""

import base64
import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.estimate import IMAGE_TOKENS, Correction, Corrections, estimate_prompt_tokens

CORPUS = json.loads((Path(__file__).parent / "estimate_corpus.json").read_text("utf-8"))
KINDS = sorted({piece["kind"] for piece in CORPUS})


def estimate(value: object, *, ascii_only: bool = False) -> int:
    return estimate_prompt_tokens(json.dumps(value, ensure_ascii=ascii_only).encode())


@pytest.mark.parametrize("ascii_only", [False, True], ids=["utf-8", "escaped"])
@pytest.mark.parametrize("piece", CORPUS, ids=[piece["kind"] for piece in CORPUS])
def test_the_estimate_is_near_the_tokenizers_count(piece: dict, ascii_only: bool) -> None:
    """Every text of the corpus within 25 %, whichever way its JSON is written."""
    assert estimate(piece["text"], ascii_only=ascii_only) == pytest.approx(piece["o200k_tokens"], rel=0.25)


@pytest.mark.parametrize("piece", CORPUS, ids=[piece["kind"] for piece in CORPUS])
def test_large_bodies_are_sampled_without_losing_the_measure(piece: dict) -> None:
    """A body of 200 KB, judged by 8 KB of it, comes out as the sum of its parts."""
    times = 200_000 // len(piece["text"].encode())
    assert estimate(piece["text"] * times) == pytest.approx(estimate(piece["text"]) * times, rel=0.1)


def test_a_mixture_is_sampled_evenly() -> None:
    """Alternating languages over 300 KB stay within 25 % of the exact count."""
    order = [random.Random(3).choice(CORPUS) for _ in range(250)]
    assert estimate([piece["text"] for piece in order]) == pytest.approx(
        sum(piece["o200k_tokens"] for piece in order), rel=0.25
    )


@pytest.mark.parametrize("size", [1_500, 40_000, 400_000])
@pytest.mark.parametrize("escaped_slashes", [False, True])
@pytest.mark.parametrize("shape", ["openai", "anthropic"])
def test_base64_is_an_image_not_text(size: int, escaped_slashes: bool, shape: str) -> None:
    """A picture costs the same however many bytes it has, in OpenAI's and Anthropic's shape, slashes escaped or not."""
    data = base64.b64encode(random.Random(1).randbytes(size)).decode()
    part = (
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
        if shape == "openai"
        else {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}
    )
    body = json.dumps([{"role": "user", "content": [{"type": "text", "text": "What is this?"}, part, part]}])
    if escaped_slashes:
        body = body.replace("/", "\\/")
    assert 2 * IMAGE_TOKENS < estimate_prompt_tokens(body.encode()) < 2 * IMAGE_TOKENS + 150


def test_escaped_chinese_is_not_taken_for_base64() -> None:
    """Unbroken escapes look like base64, and are not."""
    text = "今天天气很好我们去公园散步" * 300
    assert estimate(text, ascii_only=True) == pytest.approx(estimate(text), rel=0.05)


def test_nothing_costs_nothing() -> None:
    """An empty body has no tokens."""
    assert estimate_prompt_tokens(b"") == 0


@given(st.binary(max_size=3000) | st.text(max_size=3000).map(lambda text: json.dumps(text).encode()))
def test_any_bytes_have_an_estimate(data: bytes) -> None:
    """Broken UTF-8, broken escapes, lone surrogates: a number between 0 and one token a byte, and an image's worth."""
    assert 0 <= estimate_prompt_tokens(data) <= len(data) + IMAGE_TOKENS


def test_the_correction_learns_template_and_tokenizer() -> None:
    """With a template of 70 tokens and a tokenizer that makes 1.5 times as many, both are found."""
    correction = Correction()
    numbers = random.Random(5)
    for _ in range(600):
        for low, high in ((5, 200), (300, 5000)):
            size = numbers.randint(low, high)
            correction.learn(size, round(70 + 1.5 * size))
    assert correction.apply(1000) == pytest.approx(1570, rel=0.03)
    assert correction.apply(20) == pytest.approx(100, rel=0.3)


@given(st.lists(st.tuples(st.integers(1, 10**6), st.integers(1, 10**6)), max_size=200))
def test_the_correction_stays_in_its_bounds(seen: list[tuple[int, int]]) -> None:
    """Whatever is learned, an estimate changes at most fourfold, and by 512 tokens."""
    correction = Correction()
    for estimated, actual in seen:
        correction.learn(estimated, actual)
    assert 250 <= correction.apply(1000) <= 4512


def test_corrections_are_bounded_in_number() -> None:
    """Models beyond the bound go uncorrected instead of filling memory."""
    corrections = Corrections(most=2)
    for name in ("a", "b", "c"):
        corrections.of(name).learn(1000, 2000)
    assert corrections.of("a").apply(1000) > 1000
    assert corrections.of("c").apply(1000) == 1000
