"""The pieces of one streamed answer on their way from the engine to the client."""

import time
from dataclasses import dataclass

from gateway.context import Api, Exchange
from gateway.delivery import Recipient
from gateway.dialects.anthropic import MessagesMeter
from gateway.dialects.openai import OpenAIMeter
from gateway.dialects.responses import ResponsesMeter
from gateway.errors import EngineError, EngineTimeout, GatewayError
from gateway.routes import Route
from gateway.shape import Shaped
from gateway.upstream import Connection
from gateway.usage import PlainMeter, StreamMeter


class EngineLost(Exception):
    """The engine failed before anything of its answer was passed on: the request can be sent again."""


@dataclass(slots=True)
class Stream:
    """The pieces of one stream on their way through. `pass_on` runs the moment one arrives, and never waits.

    What the client cannot take at once is kept back, for the relay's task to write; the engine is not read meanwhile.
    """

    connection: Connection
    meter: StreamMeter
    delivery: Recipient
    exchange: Exchange
    fields: str  # lines of the answer's head
    next_token_seconds: float
    flows: bool = False  # the first output has passed
    error: GatewayError | None = None
    pending: bytes = b""  # events before the first output: a successor of the engine would send them again
    kept_back: bytes = b""

    @property
    def runs(self) -> bool:
        """Whether more is to come."""
        return self.error is None and not self.meter.finished

    def pass_on(self, data: bytes) -> bool:
        """Meter what the engine sent, and send it on; False: the relay's task is needed. Raises EngineLost."""
        out = self.meter.feed(data)
        if self.meter.error is not None:
            self.fail(broken_off(f"The engine failed while answering: {self.meter.error[:500]}"), out)
        else:
            self._send(out)
        return self.error is None and not self.meter.finished and not self.kept_back

    def end(self) -> None:
        """The engine's answer is over."""
        out = self.meter.end()
        if self.meter.finished:
            self._send(out)
        else:
            self.fail(broken_off(), out)

    def fail(self, error: GatewayError, out: bytes = b"") -> None:
        """It broke off. Raises EngineLost where nothing of it was passed on, so that it can be sent again."""
        self.error = error
        if not self.meter.started and not isinstance(error, EngineTimeout):
            raise EngineLost(error.message)
        self._send(out)

    def take_kept_back(self) -> bytes:
        """What the client could not take."""
        out, self.kept_back = self.kept_back, b""
        return out

    def _send(self, out: bytes) -> None:
        if not self.flows:
            out = self._before_first_output(out)
        if not out:
            return
        if self.exchange.bodies is not None:
            self.exchange.bodies.streamed(out)
        if self.kept_back or not self.delivery.offer(out, self.fields):
            self.kept_back += out

    def _before_first_output(self, out: bytes) -> bytes:
        """What of this may go out already: all that has come, if this has the first output."""
        if self.meter.started:
            self.flows = True
            self.exchange.first_token_at = time.monotonic()
            self.connection.expect_each_within(self.next_token_seconds)
            self.pending, out = b"", self.pending + out
        elif not out.startswith(b":"):  # a comment keeps the client's connection alive while it is queued
            self.pending, out = self.pending + out, b""
        return out


def broken_off(message: str = "The engine's answer broke off.") -> EngineError:
    """The error of an answer that is not whole."""
    return EngineError(message, code="engine_failed")


def meter_of(route: Route, shaped: Shaped) -> StreamMeter:
    """What meters the streams of a route."""
    match route.api:
        case Api.CHAT | Api.COMPLETIONS:
            return OpenAIMeter(
                show_usage=shaped.show_usage,
                show_running_usage=shaped.show_running_usage,
                show_token_ids=shaped.show_token_ids,
                choices=shaped.choices,
                choices_per_prompt=shaped.choices_per_prompt,
            )
        case Api.RESPONSES:
            return ResponsesMeter()
        case Api.MESSAGES:
            return MessagesMeter()
        case _:
            return PlainMeter()
