"""Questions to a running engine: does it live, does it answer, does it move? Over HTTP, each with a deadline."""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from itertools import count
from random import Random
from typing import Any

import aiohttp

from launcher.config import EngineSettings

_RUNNING = "vllm:num_requests_running"
_WAITING = "vllm:num_requests_waiting"
_STEPS = "vllm:iteration_tokens_total_count"
_SAMPLE = re.compile(rf"^({_RUNNING}|{_WAITING}|{_STEPS})(?:\{{[^}}]*\}})? +(\S+)", re.MULTILINE)
_SHORT_SECONDS = 5.0
_SMALL_IDS = range(100, 1000)  # tokens that every vocabulary has


class Health(StrEnum):
    """What /health says. 503 comes from vLLM only once its EngineCore is dead; it never recovers from that."""

    OK = "ok"
    DEAD = "dead"
    SILENT = "silent"


@dataclass(frozen=True, slots=True)
class Load:
    """The engine's work at one moment: requests, and scheduler steps done since it started."""

    running: int
    waiting: int
    steps: int

    @property
    def in_flight(self) -> int:
        """Requests that wait for their next token."""
        return self.running + self.waiting


class NotAnsweringError(Exception):
    """The engine did not answer a real request; the message says how."""


class Probe:
    """Asks one engine at `url` (no trailing slash) with its API key."""

    def __init__(self, session: aiohttp.ClientSession, url: str, api_key: str, model: str) -> None:
        self._session = session
        self._url = url
        self._headers = {"Authorization": f"Bearer {api_key}"}
        self._model = model

    async def health(self, deadline: float) -> Health:
        """Ask /health; `deadline` in seconds."""
        try:
            async with self._session.get(f"{self._url}/health", timeout=_within(deadline)) as response:
                if response.status == 503:
                    return Health.DEAD
                return Health.OK if response.status == 200 else Health.SILENT
        except (aiohttp.ClientError, TimeoutError, OSError):
            return Health.SILENT

    async def one_token(self, deadline: float) -> None:
        """Have one token generated: `/health` alone stays 200 when a worker hangs. NotAnsweringError otherwise."""
        await self.complete("1", 1, deadline)

    async def complete(self, prompt: str | list[int], max_tokens: int, deadline: float) -> None:
        """Run one completion of a text or of token ids. An engine without the route (embeddings) counts as well."""
        body = {"model": self._model, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0}
        status, text = await self._post("/v1/completions", body, deadline)
        if status not in {200, 404, 405}:
            raise NotAnsweringError(f"the engine answered a one-token request with {status}: {text[:300]}")

    async def chat(self, system: str, deadline: float) -> None:
        """Run a one-token chat with this system prompt, which fills the prefix cache with it."""
        messages = [{"role": "system", "content": system}, {"role": "user", "content": "1"}]
        body = {"model": self._model, "messages": messages, "max_tokens": 1, "temperature": 0}
        status, text = await self._post("/v1/chat/completions", body, deadline)
        if status != 200:
            raise NotAnsweringError(f"the engine answered a system prompt with {status}: {text[:300]}")

    async def load(self, deadline: float) -> Load | None:
        """Read the engine's own counters; None when they cannot be read, which is not idleness."""
        try:
            async with self._session.get(f"{self._url}/metrics", timeout=_within(deadline)) as response:
                text = await response.text()
        except (aiohttp.ClientError, TimeoutError, OSError):
            return None
        return parse_load(text)

    async def version(self) -> str | None:
        """Read the version of vLLM."""
        try:
            async with self._session.get(
                f"{self._url}/version", headers=self._headers, timeout=_within(_SHORT_SECONDS)
            ) as response:
                answer = await response.json()
                return str(answer["version"])
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError, TypeError):
            return None

    async def reset_prefix_cache(self) -> int:
        """Empty the prefix cache. Returns the HTTP status: 404 unless vLLM runs with VLLM_SERVER_DEV_MODE=1."""
        status, _ = await self._post("/reset_prefix_cache", None, _SHORT_SECONDS)
        return status

    async def _post(self, path: str, body: dict[str, Any] | None, deadline: float) -> tuple[int, str]:
        try:
            async with self._session.post(
                self._url + path, json=body, headers=self._headers, timeout=_within(deadline)
            ) as response:
                return response.status, await response.text()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            why = "nothing" if isinstance(error, TimeoutError) else str(error)
            raise NotAnsweringError(f"{path} of the engine answered {why} within {deadline:.0f} s") from error


def parse_load(text: str) -> Load | None:
    """Sum the samples over all engines and models of one /metrics page; None when the page has none of them."""
    sums = dict.fromkeys((_RUNNING, _WAITING, _STEPS), 0.0)
    found = _SAMPLE.findall(text)
    for name, value in found:
        sums[name] += float(value)
    return Load(*(int(value) for value in sums.values())) if found else None


class StallClock:
    """Finds a hang: requests in flight, and the step counter frozen for `limit` seconds. The caller has the clock."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._steps: int | None = None
        self._since: float | None = None

    def observe(self, load: Load | None, at: float) -> bool:
        """Whether the engine hangs at monotonic time `at`. A failed look (None) neither starts nor ends a hang."""
        if load is not None:
            if load.in_flight == 0 or load.steps != self._steps:
                self._since = at if load.in_flight else None
            elif self._since is None:
                self._since = at
            self._steps = load.steps
        return self._since is not None and at - self._since >= self._limit


def _within(seconds: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=seconds)


async def warm_up(probe: Probe, settings: EngineSettings, on_step: Callable[[int, int], None]) -> None:
    """Have the engine compile what it compiles late and fill its prefix cache, so that the first user meets neither.

    A first request was seen to wait for seconds: Triton makes kernels for each multiple of 32 tokens in a batch that no
    CUDA graph was captured for (docs/vllm.md, "Kernels"). `on_step` hears of each step how many of how many are over.
    NotAnsweringError when a request fails.
    """
    deadline = settings.warmup_timeout
    lengths = settings.warmup_prompt_lengths
    total = len(settings.warmup_batches) + len(lengths) + len(settings.warmup_prompts)
    done = count(1)
    for size in settings.warmup_batches:
        await asyncio.gather(*(probe.complete("one two three " * 8, 16, deadline) for _ in range(size)))
        on_step(next(done), total)
    for length in lengths:
        unlike = Random(length)  # noqa: S311 - not a secret; nothing of it shall lie in the prefix cache
        await probe.complete(unlike.choices(_SMALL_IDS, k=length), 1, deadline)
        on_step(next(done), total)
    for prompt in settings.warmup_prompts:
        await probe.chat(prompt, deadline)
        on_step(next(done), total)
