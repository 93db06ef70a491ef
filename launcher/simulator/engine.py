"""The scheduler: slots, a waiting line, steps that make one token a sequence, and the counters that prove it.

A generation is one prompt with `n` sequences; each sequence takes a slot of its own and counts its prompt, as in
vLLM. What a sequence will say is planned when it is submitted; the engine decides when. Each token is counted and
handed to its listener in the same step, so what was generated and what was sent differ only for who went away.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from launcher.simulator.knobs import Knobs
from launcher.simulator.metrics import Metrics
from launcher.simulator.prefix_cache import PrefixCache

KV_CACHE_TOKENS = 1_048_576
"""What the KV cache holds, for `vllm:kv_cache_usage_perc`."""
_MOST_STEPS_AT_ONCE = 8
_STALL_POLL_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Plan:
    """What one sequence will generate, and why it will end.

    `pieces` are its tokens' texts: first `hidden` ones without text, then `reasoning` ones, then the answer.
    `emitted` differs from `pieces` where a stop string swallowed text. `tool` is the function being called when the
    answer is a tool call's arguments.
    """

    pieces: list[str]
    emitted: list[str]
    finish: str
    stop_reason: str | int | None = None
    hidden: int = 0
    reasoning: int = 0
    tool: str | None = None


class Listener(Protocol):
    """Who a generation's tokens go to. All calls happen inside the step."""

    def token(self, sequence: Sequence, piece: str, finish: str | None) -> None:
        """One more token of `sequence`; with the last one comes why it ended."""

    def aborted(self, sequence: Sequence) -> None:
        """The engine was told to stop before this sequence's next token."""

    def failed(self) -> None:
        """The engine died, or was told to stop, and this generation with it."""


@dataclass(slots=True, eq=False)
class Generation:
    """One prompt's work. `fault_after` is the token count at which `strike` is called, once."""

    prompt: list[int]
    plans: list[Plan]
    max_tokens: int
    priority: int = 0
    salt: str | None = None
    cached: int = 0
    fault_after: int | None = None
    strike: Callable[[], None] | None = None
    sequences: list[Sequence] = field(default_factory=list)
    listener: Listener | None = None

    @property
    def produced(self) -> int:
        """Tokens generated so far, over all sequences."""
        return sum(sequence.produced for sequence in self.sequences)

    @property
    def finished(self) -> bool:
        """Every sequence has ended."""
        return all(sequence.finish is not None for sequence in self.sequences)


@dataclass(slots=True, eq=False)
class Sequence:
    """One sequence's progress; times are the loop's clock."""

    generation: Generation
    plan: Plan
    index: int
    arrived: float
    produced: int = 0
    started: float = 0.0
    first: float = 0.0
    last: float = 0.0
    finish: str | None = None
    prefill: asyncio.TimerHandle | None = None


class Engine:
    """The simulated EngineCore of one process."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, knobs: Knobs, metrics: Metrics, slots: int, *, priority: bool
    ) -> None:
        self.knobs, self.metrics = knobs, metrics
        self.cache = PrefixCache()
        self.dead: str | None = None
        self.paused = False
        self.stalled = False
        self._loop, self._slots, self._priority = loop, slots, priority
        self._order = itertools.count()
        self._waiting: list[tuple[int, int, Sequence]] = []
        self._running: dict[Sequence, None] = {}
        self._decoding: dict[Sequence, None] = {}
        self._kv_tokens = 0
        self._tick: asyncio.Handle | None = None
        self._due = 0.0

    # what requests call

    def submit(self, generation: Generation, listener: Listener) -> None:
        """Queue a generation; `listener` hears of its tokens."""
        generation.listener = listener
        now = self._loop.time()
        for index, plan in enumerate(generation.plans):
            sequence = Sequence(generation, plan, index, arrived=now)
            generation.sequences.append(sequence)
            rank = generation.priority if self._priority else 0
            heapq.heappush(self._waiting, (rank, next(self._order), sequence))
        self._admit()

    def abort(self, generation: Generation) -> None:
        """Drop a generation: its slots are free at once, no counter of finished requests moves."""
        for sequence in generation.sequences:
            self._drop(sequence)
        self._waiting = [entry for entry in self._waiting if entry[2].generation is not generation]
        heapq.heapify(self._waiting)
        self._admit()

    def fail(self, generation: Generation) -> None:
        """Drop a generation as if EngineCore had died for it alone."""
        self.abort(generation)
        if generation.listener is not None:
            generation.listener.failed()

    @property
    def in_flight(self) -> list[Generation]:
        """Generations running or waiting, each once."""
        sequences = [*self._running, *(entry[2] for entry in self._waiting)]
        return list(dict.fromkeys(sequence.generation for sequence in sequences))

    # what faults and signals call

    def die(self, message: str) -> None:
        """EngineCore is gone: everything in flight fails, and `message` is why nothing new is taken."""
        self.dead = message
        for generation in self.in_flight:
            self.fail(generation)

    def abort_all(self) -> None:
        """End everything in flight with finish reason `abort`, as SIGTERM does."""
        for generation in self.in_flight:
            self.abort(generation)
            for sequence in generation.sequences:
                if sequence.finish is None and generation.listener is not None:
                    sequence.finish = "abort"
                    self.metrics.finished["abort"] += 1
                    generation.listener.aborted(sequence)

    def wake(self) -> None:
        """Go on after a stall or a pause, and at the speed that the knobs say now."""
        if self._tick is not None:
            self._tick.cancel()
            self._tick = None
        self._admit()
        self._schedule()

    # the step

    def _admit(self) -> None:
        while self._waiting and len(self._running) < self._slots and not self.paused:
            sequence = heapq.heappop(self._waiting)[2]
            generation = sequence.generation
            sequence.started = self._loop.time()
            self._running[sequence] = None
            self._kv_tokens += len(generation.prompt)
            sequence.prefill = self._loop.call_later(self.knobs.ttft, self._first_token, sequence)
        self._gauge()

    def _first_token(self, sequence: Sequence) -> None:
        """A prefill step: the prompt is computed and the first token comes out of it."""
        if self.stalled:
            sequence.prefill = self._loop.call_later(_STALL_POLL_SECONDS, self._first_token, sequence)
            return
        generation, metrics = sequence.generation, self.metrics
        sequence.prefill = None
        cached, chain = self.cache.lookup(generation.prompt, generation.salt)
        self.cache.insert(chain)
        generation.cached = max(generation.cached, cached) if sequence.index == 0 else generation.cached
        now = self._loop.time()
        sequence.first = sequence.last = now
        length = len(generation.prompt)
        metrics.prompt_tokens += length
        metrics.cached_tokens += cached
        metrics.computed.observe(length - cached)
        metrics.ttft.observe(now - sequence.arrived)
        metrics.iteration.observe(length + 1)
        self._decoding[sequence] = None
        self._produce(sequence, now)
        self._schedule()

    def _schedule(self) -> None:
        if self._tick is not None or not self._decoding:
            return
        now = self._loop.time()
        if self.knobs.tps <= 0:
            self._due = now
            self._tick = self._loop.call_soon(self._steps)
            return
        self._due = now + 1 / self.knobs.tps
        self._tick = self._loop.call_at(self._due, self._steps)

    def _steps(self) -> None:
        """The decode steps that are due: one, or a few when the process was kept from the CPU."""
        self._tick = None
        interval = 1 / self.knobs.tps if self.knobs.tps > 0 else 0.0
        now = self._loop.time()
        if self.stalled:
            self._due = now + max(interval, _STALL_POLL_SECONDS)
            self._tick = self._loop.call_at(self._due, self._steps)
            return
        done = 0
        while self._decoding and self._due <= now and done < _MOST_STEPS_AT_ONCE and not self.stalled:
            self._step(now)
            self._due += interval
            done += 1
        self._tick = None
        if self._decoding:
            self._due = max(self._due, now)
            self._tick = self._loop.call_at(self._due, self._steps) if interval else self._loop.call_soon(self._steps)

    def _step(self, now: float) -> None:
        batch = tuple(self._decoding)
        self.metrics.iteration.observe(len(batch))
        self.metrics.inter_token.observe(1 / self.knobs.tps if self.knobs.tps > 0 else 0.0, len(batch))
        for sequence in batch:
            if sequence in self._decoding:
                self._produce(sequence, now)

    def _produce(self, sequence: Sequence, now: float) -> None:
        generation, plan = sequence.generation, sequence.plan
        piece = plan.emitted[sequence.produced]
        sequence.produced += 1
        sequence.last = now
        self._kv_tokens += 1
        self.metrics.generation_tokens += 1
        finish = plan.finish if sequence.produced == len(plan.emitted) else None
        if finish is not None:
            sequence.finish = finish
            self._count_finished(sequence)
            self._drop(sequence)
            self._admit()
        try:
            if generation.listener is not None:
                generation.listener.token(sequence, piece, finish)
        except Exception:  # noqa: BLE001  # one answer's defect must not stop the step for all
            traceback.print_exc()
            self.fail(generation)
        if generation.fault_after is not None and generation.produced >= generation.fault_after:
            generation.fault_after = None
            if generation.strike is not None:
                generation.strike()

    def _drop(self, sequence: Sequence) -> None:
        if sequence in self._running:
            del self._running[sequence]
            self._kv_tokens -= len(sequence.generation.prompt) + sequence.produced
        self._decoding.pop(sequence, None)
        if sequence.prefill is not None:
            sequence.prefill.cancel()
            sequence.prefill = None
        self._gauge()

    def _gauge(self) -> None:
        self.metrics.running = len(self._running)
        self.metrics.waiting = len(self._waiting)
        self.metrics.kv_usage = self._kv_tokens / KV_CACHE_TOKENS

    def _count_finished(self, sequence: Sequence) -> None:
        generation, metrics = sequence.generation, self.metrics
        now = self._loop.time()
        reason = sequence.finish if sequence.finish in metrics.finished else "stop"
        metrics.finished[reason or "stop"] += 1
        metrics.request_prompt.observe(len(generation.prompt))
        metrics.request_generation.observe(sequence.produced)
        metrics.max_tokens.observe(generation.max_tokens)
        metrics.e2e.observe(now - sequence.arrived)
        metrics.queue_time.observe(sequence.started - sequence.arrived)
        metrics.inference_time.observe(now - sequence.started)
        metrics.prefill_time.observe(sequence.first - sequence.started)
        metrics.decode_time.observe(now - sequence.first)
        metrics.per_token.observe((now - sequence.first) / max(1, sequence.produced - 1))
        metrics.preemptions.observe(0)
        if generation.finished:
            metrics.request_n.observe(len(generation.sequences))
            metrics.request_max.observe(max(each.produced for each in generation.sequences))
