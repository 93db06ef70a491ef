"""One worker as its parent sees it: a process, and the channel to it."""

import asyncio
import contextlib
import enum
import time
from collections.abc import Callable
from typing import Any

from gateway.streak import Streak
from gateway.workers.channel import Answer, Channel, Figures, Health, Order, Requests, Serving
from gateway.workers.metrics import Exit

ANSWER_SECONDS = 1.0  # longest wait for a worker's answer
PATIENCE_PARTS = 10  # a parent that was itself stopped for a while has missed one part of its patience, not all of it


class State(enum.StrEnum):
    """Of a worker."""

    STARTING = "starting"
    SERVING = "serving"
    RETIRING = "retiring"


class Worker:
    """One worker, from its start to its end."""

    def __init__(
        self,
        number: int,
        process: asyncio.subprocess.Process,
        channel: Channel,
        *,
        on_serving: Callable[[], None],
    ) -> None:
        self.number, self._process, self._channel, self._on_serving = number, process, channel, on_serving
        self.state = State.STARTING
        self.hung = False  # it is killed for that
        self._started = time.monotonic()
        self.figures = Figures([], Streak())  # its metrics, as it last told them
        self.serving, self.gone = asyncio.Event(), asyncio.Event()
        self._asked: dict[type[Answer], asyncio.Future[Answer]] = {}

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """How it ended; negative: by that signal."""
        return self._process.returncode

    @property
    def exit(self) -> Exit:
        """What it died of."""
        if self.hung:
            return "hung"
        return "killed" if self.exit_code is not None and self.exit_code < 0 else "exited"

    @property
    def age(self) -> float:
        """Seconds since its start."""
        return time.monotonic() - self._started

    def stop(self) -> None:
        """Let it drain, then end; one that does not serve yet ends at once."""
        if self.state is State.STARTING:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
        self._channel.send(Order("stop"))

    def hurry(self) -> None:
        """Let it end what it is draining."""
        self._channel.send(Order("hurry"))

    def kill(self) -> None:
        """SIGKILL."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    def retire(self) -> None:
        """A successor serves: let it end when nobody is left."""
        self.state = State.RETIRING
        self._channel.send(Order("retire"))

    def reload(self) -> None:
        """Let it take over plans and limits."""
        self._channel.send(Order("reload"))

    async def look(self) -> None:
        """Bring `figures` up to date, as far as it answers."""
        await self._ask(Order("figures"), Figures)

    async def answers_within(self, seconds: float) -> bool:
        """Whether its event loop turns: a worker that serves answers at once, whatever else it does."""
        for _ in range(PATIENCE_PARTS):
            if await self._ask(Order("health"), Health, seconds / PATIENCE_PARTS) is not None or self.gone.is_set():
                return True
        return False

    async def why_not_ready(self) -> list[str]:
        """Why it can serve no request now; empty when it can."""
        answer = await self._ask(Order("health"), Health)
        return answer.why_not_ready if isinstance(answer, Health) else [f"worker {self.number} does not answer"]

    async def requests(self) -> list[dict[str, Any]]:
        """The requests that it serves; none where it does not answer."""
        answer = await self._ask(Order("requests"), Requests)
        return answer.requests if isinstance(answer, Requests) else []

    async def attend(self) -> None:
        """Listen to it until it is gone."""
        async for message in self._channel.messages():
            match message:
                case Serving():
                    self.state = State.SERVING
                    self.serving.set()
                    self._on_serving()
                case Health() | Figures() | Requests():
                    if isinstance(message, Figures):
                        self.figures = message
                    if (asked := self._asked.pop(type(message), None)) is not None:
                        asked.set_result(message)
        await self._process.wait()
        await self._channel.close()
        for asked in self._asked.values():
            asked.cancel()
        self.gone.set()

    async def _ask(self, order: Order, kind: type[Answer], seconds: float = ANSWER_SECONDS) -> Answer | None:
        """Its answer; who asks meanwhile shares it. None where it is late: a worker may hang."""
        if not self.serving.is_set() or self.gone.is_set():
            return None
        answer = self._asked.get(kind)
        if answer is None:
            answer = self._asked[kind] = asyncio.get_running_loop().create_future()
            self._channel.send(order)
        await asyncio.wait({answer}, timeout=seconds)
        return answer.result() if answer.done() and not answer.cancelled() else None
