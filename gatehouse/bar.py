"""A start-up on a terminal: one line with a bar, redrawn in place, that is gone when the engine is ready."""

import atexit
import time
from typing import TYPE_CHECKING, Self, TextIO

from launcher.status import Status

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_RISING = {"starting", "warming"}
_REDRAWS_PER_SECOND = 4


class StartupBar:
    """Shows statuses of a start-up. Other lines may be written while it is hidden."""

    def __init__(self, terminal: TextIO) -> None:
        self._terminal = terminal
        self._shown: tuple[Progress, TaskID] | None = None
        self._ends: float | None = None

    @classmethod
    def on(cls, stream: TextIO) -> Self | None:
        """Make a bar where somebody watches: on a terminal, not in a log."""
        return cls(stream) if stream.isatty() else None

    def show(self, status: Status) -> bool:
        """Draw this status if it is one of a start-up, else take the bar away; whether it was drawn."""
        if status.state not in _RISING or status.phase is None:
            self.hide()
            return False
        progress, task = self._shown = self._shown or self._begin()
        self._ends = None if status.eta_s is None else time.monotonic() + status.eta_s
        progress.update(task, completed=status.percent, description=f"engine {status.phase}")
        return True

    def hide(self) -> None:
        """Take the bar away, and give the cursor back."""
        if self._shown is not None:
            self._shown[0].stop()
            self._shown = None
            atexit.unregister(self.hide)

    def _begin(self) -> "tuple[Progress, TaskID]":
        # rich is loaded here: most commands never draw a bar
        from rich.console import Console  # noqa: PLC0415
        from rich.progress import (  # noqa: PLC0415
            BarColumn,
            Progress,
            ProgressColumn,
            Task,
            TaskProgressColumn,
            TextColumn,
            TimeElapsedColumn,
        )
        from rich.text import Text  # noqa: PLC0415

        bar = self

        class Estimate(ProgressColumn):
            """What the last start-up like this one lets expect."""

            def render(self, _: Task) -> Text:
                if bar._ends is None:
                    return Text("")
                return Text(f"about {max(bar._ends - time.monotonic(), 0):.0f} s left", style="dim")

        progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            Estimate(),
            console=Console(file=self._terminal),
            refresh_per_second=_REDRAWS_PER_SECOND,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        progress.start()
        atexit.register(self.hide)  # an end by exception must not leave a terminal without its cursor
        return progress, progress.add_task("engine", total=100)
