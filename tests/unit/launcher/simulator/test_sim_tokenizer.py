"""The tokenizer without a vocabulary."""

from hypothesis import given
from hypothesis import strategies as st

from launcher.simulator.answers import answer
from launcher.simulator.prefix_cache import BLOCK, PrefixCache
from launcher.simulator.tokenizer import count, decode, encode, pieces

TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]))
WORDS = st.lists(st.sampled_from(["hello", " ", "\n", "世界", "12345", "**", " fine.", "é", "😀", "|", "\t"])).map(
    "".join
)


@given(TEXT | WORDS)
def test_round_trip(text: str) -> None:
    """Any text that UTF-8 can carry comes back from its tokens."""
    assert decode(encode(text)) == text
    assert "".join(pieces(text)) == text
    assert count(text) == len(encode(text))


@given(TEXT | WORDS, st.integers(min_value=0))
def test_cut_at_a_token_keeps_the_tokens_before(text: str, at: int) -> None:
    """The tokens of what was sent are the tokens that were generated, wherever the stream was cut."""
    tokens = pieces(text)
    kept = tokens[: at % (len(tokens) + 1)]
    assert pieces("".join(kept)) == kept


@given(st.lists(st.integers(min_value=0, max_value=2**60)))
def test_every_number_stands_for_some_text(tokens: list[int]) -> None:
    """Detokenizing never fails, whatever numbers a client sends."""
    assert isinstance(decode(tokens), str)


@given(TEXT)
def test_numbers_survive_json(text: str) -> None:
    """Token numbers are exact in JSON readers that only know doubles."""
    assert all(0 <= token < 2**53 for token in encode(text))


@given(st.text(max_size=80), st.integers(0, 2**32))
def test_answers_say_they_are_simulated(question: str, seed: int) -> None:
    """Every answer names the simulated engine in the question's language, and is the same for the same seed."""
    reasoning, text = answer(question, seed)
    assert "simulated engine" in text or "模拟引擎" in text
    assert (reasoning, text) == answer(question, seed)
    assert "{asked}" not in reasoning.replace(question, "")


@given(st.integers(0, 5 * BLOCK), st.integers(0, 5 * BLOCK))
def test_prefix_cache_hits_whole_shared_blocks(first: int, second: int) -> None:
    """A prompt hits what an earlier one shares with it, in whole blocks, and never all of its tokens."""
    cache = PrefixCache()
    _, chain = cache.lookup(list(range(first)), None)
    cache.insert(chain)
    hits, _ = cache.lookup(list(range(second)), None)
    assert hits == min(first // BLOCK, max(0, second - 1) // BLOCK) * BLOCK
    assert cache.lookup(list(range(second)), "salt")[0] == 0
