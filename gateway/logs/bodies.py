"""A request's line with its bodies, which are redacted when it is written: in the writer's thread, not on the way."""

from dataclasses import dataclass

import msgspec

from gateway.bodies import Bodies
from gateway.logs.line import LogLine
from gateway.logs.redaction import Redactor


@dataclass(frozen=True, slots=True)
class LineWithBodies:
    """`on_stream`: the copy on the stream has them, too."""

    line: LogLine
    bodies: Bodies
    redactor: Redactor
    on_stream: bool

    def json(self) -> bytes:
        """The line as the file has it."""
        return self._whole().json()

    def shown(self, form: str, record: bytes) -> bytes:
        """The line as the stream has it."""
        if not self.on_stream:
            return self.line.json() if form == "json" else self.line.console()
        if form == "json":
            return record
        whole = self._whole()
        asked = _indented("asked", whole.request_body)
        return whole.console() + asked + _indented("answered", whole.response_body)

    def _whole(self) -> LogLine:
        asked, answered = self.redactor.request(self.bodies), self.redactor.answer(self.bodies)
        return msgspec.structs.replace(self.line, request_body=asked, response_body=answered)


def _indented(name: str, body: str | None) -> bytes:
    text = "\n    ".join((body or "").splitlines())
    return f"  {name}: {text}\n".encode() if text else b""
