"""One streamed request, and what was seen of its answer."""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import msgspec

_READ_BYTES = 1 << 18
_DONE = b"[DONE]"


@dataclass(frozen=True)
class Target:
    """A server: its name in the report, its address and the key it asks for."""

    name: str
    url: str
    api_key: str | None = None


@dataclass(slots=True)
class Answer:
    """Moments are seconds of the monotonic clock, which all processes of one machine share."""

    began: float
    ended: float = 0.0
    first: float | None = None
    """When the first event with text came."""
    gaps: list[float] = field(default_factory=list)
    """Seconds between an event with text and the one before it; events of one read follow each other after 0 s."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: str | None = None
    """Why it was no whole answer: `429 rate_limit_exceeded`, `cut off`, `timeout`, …"""

    @property
    def ttft(self) -> float | None:
        """Seconds to the first token."""
        return None if self.first is None else self.first - self.began

    @property
    def per_token(self) -> float | None:
        """Seconds per token after the first (vLLM's TPOT)."""
        if self.first is None or self.completion_tokens < 2:
            return None
        return sum(self.gaps) / (self.completion_tokens - 1)


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: Any = None


class _Choice(msgspec.Struct):
    text: str | None = None
    delta: _Delta | None = None


class _Event(msgspec.Struct):
    choices: list[_Choice] = msgspec.field(default_factory=list)
    usage: _Usage | None = None
    error: Any = None

    def has_text(self) -> bool:
        """Whether the caller got something of the answer."""
        for choice in self.choices:
            delta = choice.delta or _Delta()
            if choice.text or delta.content or delta.reasoning or delta.reasoning_content or delta.tool_calls:
                return True
        return False


_decode = msgspec.json.Decoder(_Event).decode


async def ask(http: aiohttp.ClientSession, target: Target, path: str, body: bytes, timeout: float) -> Answer:  # noqa: ASYNC109
    """Send one request and read its stream to the end. Never raises: what went wrong is in `error`."""
    headers = {"Content-Type": "application/json"}
    if target.api_key is not None:
        headers["Authorization"] = f"Bearer {target.api_key}"
    answer = Answer(began=time.monotonic())
    try:
        async with asyncio.timeout(timeout):
            async with http.post(target.url.rstrip("/") + path, data=body, headers=headers) as response:
                if response.status != 200:
                    answer.error = _refusal(response.status, await response.read())
                else:
                    await _read(response.content, answer)
    except TimeoutError:
        answer.error = "timeout"
    except (aiohttp.ClientError, OSError) as error:
        cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
        answer.error = f"connection: {getattr(cause, 'strerror', None) or type(error).__name__}"
    except msgspec.DecodeError:
        answer.error = "not an event stream of this API"
    answer.ended = time.monotonic()
    return answer


async def _read(content: aiohttp.StreamReader, answer: Answer) -> None:
    rest, last, done = b"", answer.began, False
    async for data in content.iter_any():
        now = time.monotonic()
        *events, rest = (rest + data).replace(b"\r\n", b"\n").split(b"\n\n")
        for raw in events:
            for line in raw.split(b"\n"):
                if not line.startswith(b"data:"):
                    continue
                payload = line[5:].strip()
                if payload == _DONE:
                    done = True
                    continue
                event = _decode(payload)
                if event.error is not None:
                    answer.error = f"error event: {str(event.error)[:100]}"
                if event.usage is not None:
                    answer.prompt_tokens = event.usage.prompt_tokens
                    answer.completion_tokens = event.usage.completion_tokens
                if not event.has_text():
                    continue
                if answer.first is None:
                    answer.first = now
                else:
                    answer.gaps.append(now - last)
                last = now
    if not done and answer.error is None:
        answer.error = "cut off"


def _refusal(status: int, body: bytes) -> str:
    try:
        error = msgspec.json.decode(body).get("error") or {}
        return f"{status} {error.get('code') or error.get('type') or ''}".rstrip()
    except (msgspec.DecodeError, AttributeError):
        return str(status)


def session() -> aiohttp.ClientSession:
    """A client without limits of its own: what waits, waits at the server."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None), read_bufsize=_READ_BYTES
    )
