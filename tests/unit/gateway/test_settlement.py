"""What a request is charged whose usage the engine left open."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.context import Exchange, Outcome, Usage
from gateway.engine import Engine
from gateway.settlement import Settlement
from tests.support.engines import simulator
from tests.support.gateways import configure
from tests.support.scripted import Script, http_answer, scripted_engine
from tests.unit.gateway.exchanges import finished

PIECES = ["The quick brown fox ", "jumps over ", "the lazy dog, ", "12345678901234567890."]


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    async with simulator() as running:
        yield Engine(configure(running.url, tmp_path))


async def settled(engine: Engine, **fields: object) -> Usage:
    """What is recorded of a request, once, when it has ended so."""
    recorded: list[Exchange] = []
    settlement = Settlement(engine, recorded.append)
    exchange = finished(**{"usage": Usage(), "prompt_estimate": 77, **fields})
    settlement.finish(exchange)
    await settlement.close()
    assert recorded == [exchange]
    return exchange.usage


@pytest.mark.parametrize("outcome", [Outcome.CLIENT_GONE, Outcome.SHUTDOWN])
async def test_who_left_before_any_figure_is_charged_the_estimated_prompt(engine: Engine, outcome: Outcome) -> None:
    """The engine computed the prompt for them, and said nothing."""
    assert await settled(engine, outcome=outcome) == Usage(prompt_tokens=77, estimated=True)


async def test_what_the_engine_said_stands(engine: Engine) -> None:
    """A figure of the engine's own is neither replaced nor called an estimate."""
    assert await settled(engine, outcome=Outcome.CLIENT_GONE, usage=Usage(12, 3)) == Usage(12, 3)


async def test_what_never_reached_the_engine_is_free(engine: Engine) -> None:
    """A request that was refused, or held until its client left, costs nothing."""
    assert await settled(engine, outcome=Outcome.CLIENT_GONE, sent_at=None) == Usage()


async def test_what_failed_before_its_first_output_is_free(engine: Engine) -> None:
    """Nobody got anything: not the engine's death, not a stream's timeout is charged."""
    assert await settled(engine, outcome=Outcome.ENGINE_FAILED) == Usage()
    assert await settled(engine, outcome=Outcome.TIMEOUT) == Usage()


async def test_an_answer_in_one_piece_that_took_too_long_costs_its_prompt(engine: Engine) -> None:
    """It was being generated, which a stream that never began was not known to be."""
    assert await settled(engine, outcome=Outcome.TIMEOUT, stream=False) == Usage(prompt_tokens=77, estimated=True)


async def test_text_without_a_figure_is_counted_by_the_engine(engine: Engine) -> None:
    """A stream of an API without running usage that was cut: its text, with the engine's own tokenizer."""
    tokens = await engine.count_tokens("".join(PIECES))
    assert tokens > len(PIECES)
    found = await settled(engine, outcome=Outcome.CLIENT_GONE, usage=Usage(12), unmetered=list(PIECES))
    assert found == Usage(12, tokens, estimated=True)


async def test_without_the_engine_text_is_estimated(tmp_path: Path) -> None:
    """The engine is gone: the estimate of the text, but never less than its pieces, of which each was a token or more."""
    nobody = Engine(configure("http://127.0.0.1:1", tmp_path))
    found = await settled(nobody, outcome=Outcome.ENGINE_FAILED, usage=Usage(12), unmetered=list(PIECES))
    assert found.estimated
    assert found.completion_tokens > len(PIECES)
    many = ["x"] * 50
    assert (await settled(nobody, outcome=Outcome.ENGINE_FAILED, unmetered=many)).completion_tokens == 50


async def test_what_is_no_count_is_estimated(tmp_path: Path) -> None:
    """An external engine may answer anything to /tokenize: the text is estimated, and the record is not lost."""
    async with scripted_engine() as other:
        other.answer = lambda _head, _body: Script([http_answer(b'{"choices":[]}', "content-type: application/json")])
        strange = Engine(configure(other.url, tmp_path))
        found = await settled(strange, outcome=Outcome.CLIENT_GONE, usage=Usage(12), unmetered=["x"] * 50)
    assert found == Usage(12, 50, estimated=True)


async def test_a_record_that_fails_hurts_nobody(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    """An error in metrics or log is said, and raised to no one."""

    def broken(_exchange: Exchange) -> None:
        raise RuntimeError("no metric")

    Settlement(engine, broken).finish(finished())
    assert "the record of this request is incomplete" in caplog.text
