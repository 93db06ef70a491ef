"""How far a start-up is, read from vLLM's own log lines (0.25 to 0.32). Pure."""

import re
from dataclasses import dataclass
from enum import StrEnum


class Phase(StrEnum):
    """The phases of a start-up, in their order."""

    IMPORTING = "importing"
    DOWNLOADING = "downloading"
    LOADING = "loading"
    COMPILING = "compiling"
    CAPTURING = "capturing"
    SERVING = "serving"
    WARMING = "warming"


# Share of a start-up that is over when a phase begins, in percent: gpt-oss-20b on two H200, 277 s from nothing
# (imports 85 s, compile 35 s, profiling and graph capture 110 s).
_BEGINS: dict[Phase, int] = {
    Phase.IMPORTING: 0,
    Phase.DOWNLOADING: 5,
    Phase.LOADING: 30,
    Phase.COMPILING: 40,
    Phase.CAPTURING: 60,
    Phase.SERVING: 90,
    Phase.WARMING: 95,
}
_ORDER = list(Phase)
_MARKS: list[tuple[Phase, re.Pattern[str]]] = [
    (phase, re.compile("|".join(words)))
    for phase, words in (
        (
            Phase.DOWNLOADING,
            (r"Downloading", r"Fetching \d+ files", r"Time spent downloading weights", r"\.safetensors: +\d+%"),
        ),
        (
            Phase.LOADING,
            (r"Starting to load model", r"Loading \S* ?checkpoint shards", r"Loading weights (took|on)"),
        ),
        (
            Phase.COMPILING,
            (r"Dynamo bytecode", r"torch_compile_cache", r"Compiling a graph", r"Initial profiling"),
        ),
        (
            Phase.CAPTURING,
            (r"Capturing CUDA graph", r"Capturing cudagraph", r"Profiling CUDA graph memory"),
        ),
        (
            Phase.SERVING,
            (r"init engine \(profile", r"Starting vLLM (API )?server", r"Application startup complete"),
        ),
    )
]
_COUNT = re.compile(r"(\d+)/(\d+) \[")  # tqdm: " 88%|████ | 73/83 [00:59<00:11, 1.18s/it]"
_PERCENT = re.compile(r"(\d+)%\|")
_VERSION = re.compile(r"\bversion (\d[\w.+-]*)")


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a start-up is. `done` of `total` are the phase's own steps, when it counts them."""

    phase: Phase = Phase.IMPORTING
    done: int | None = None
    total: int | None = None
    version: str | None = None

    @property
    def percent(self) -> int:
        """Share of the whole start-up that is over: an estimate, never falling."""
        begin = _BEGINS[self.phase]
        place = _ORDER.index(self.phase)
        end = _BEGINS[_ORDER[place + 1]] if place + 1 < len(_ORDER) else 100
        return int(begin + (end - begin) * self.share)

    @property
    def share(self) -> float:
        """Share of the present phase that is over, 0 to 1, as far as it counts its steps."""
        return min(self.done / self.total, 1.0) if self.done is not None and self.total else 0.0

    def __str__(self) -> str:
        steps = f" {self.done}/{self.total}" if self.total else ""
        return f"{self.phase}{steps}"


def follow(progress: Progress, line: str) -> Progress:
    """The progress after this log line. Phases never go back: lines of several workers come interleaved."""
    if progress.version is None and (found := _VERSION.search(line)):
        return Progress(progress.phase, progress.done, progress.total, found[1])
    for phase, mark in _MARKS:
        if not mark.search(line):
            continue
        if _ORDER.index(phase) < _ORDER.index(progress.phase):
            return progress
        now = Progress(phase, *_steps(line), progress.version)
        return now if phase is not progress.phase or now.share > progress.share else progress
    return progress


def _steps(line: str) -> tuple[int | None, int | None]:
    """Read the last drawing of a progress bar in the line."""
    if counts := _COUNT.findall(line):
        done, total = int(counts[-1][0]), int(counts[-1][1])
        last = line[line.rfind("Capturing") :]
        if "PIECEWISE" in last:  # vLLM captures two sets of graphs, one after the other
            return done, 2 * total
        return (total + done, 2 * total) if "decode, FULL" in last else (done, total)
    if shares := _PERCENT.findall(line):
        return int(shares[-1]), 100
    return None, None
