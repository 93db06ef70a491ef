"""The frames of one run, kept so that whoever attaches, whenever, gets all of them."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

HEARTBEAT_SECONDS = 10.0  # between two signs of life for those who follow


class _Frame(msgspec.Struct):
    t: str
    text: str = ""


_frame = msgspec.json.Decoder(_Frame)


class Replay:
    """Frames by number, from 1 on without gaps; `listeners` are called after each new one."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.listeners: set[Callable[[], None]] = set()
        self.ended_at: float | None = None  # time.monotonic(), when the last frame came
        self.size = 0  # bytes of all frames
        self._frames: list[bytes] = []

    @property
    def seq(self) -> int:
        """The number of the last frame."""
        return len(self._frames)

    def add(self, t: str, fields: Mapping[str, Any] = {}) -> None:
        """Keep a frame and tell the listeners; `end` is the last one."""
        self._keep(msgspec.json.encode({"run": self.run_id, "seq": self.seq + 1, "t": t, **fields}), t)

    def append(self, frame: bytes) -> None:
        """Keep a frame that has its number already: the next one."""
        self._keep(frame, _frame.decode(frame).t)

    def _keep(self, frame: bytes, t: str) -> None:
        self._frames.append(frame)
        self.size += len(frame)
        if t == "end":
            self.ended_at = time.monotonic()
        for listener in tuple(self.listeners):
            listener()

    def after(self, seq: int, most_bytes: int = 1 << 20) -> Sequence[bytes]:
        """Frames after that number, the next ones first, as many as are about so many bytes; at least one if any."""
        end, size = max(0, seq), 0
        while end < len(self._frames) and size < most_bytes:
            size += len(self._frames[end])
            end += 1
        return self._frames[max(0, seq) : end]

    def texts(self) -> tuple[str, str]:
        """Reasoning and text of the answer, as far as the frames tell."""
        parts: dict[str, list[str]] = {"r": [], "c": []}
        for frame in map(_frame.decode, self._frames):
            if frame.t in parts:
                parts[frame.t].append(frame.text)
        return "".join(parts["r"]), "".join(parts["c"])

    def is_read(self, seq: int) -> bool:
        """Whether there is nothing after that number, and never will be."""
        return self.ended_at is not None and seq >= self.seq
