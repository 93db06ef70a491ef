"""Finished requests for the tests of what is recorded about them."""

from gateway.context import Api, Exchange, Outcome, Principal, Usage, Via


def finished(number: int = 0, **changes: object) -> Exchange:
    """A streamed chat request: sent after 2 ms, first token after 0.252 s, 101 tokens."""
    exchange = Exchange(
        request_id=f"r{number}",
        method="POST",
        route="/v1/chat/completions",
        api=Api.CHAT,
        client_ip="192.0.2.7",
        user_agent="openai-python/3",
        started_at=1_795_347_392.123,
        started=100.0,
        principal=Principal("alice", "red", frozenset({"api"}), "member", (), "t1", Via.BEARER),
        model="gpt-oss-20b",
        stream=True,
        status=200,
        outcome=Outcome.COMPLETE,
        usage=Usage(12, 101, 4, 30),
        sent_at=100.002,
        first_token_at=100.252,
        bytes_in=300,
        bytes_out=9000,
        engine_attempts=1,
    )
    for name, value in changes.items():
        setattr(exchange, name, value)
    return exchange
