"""Pure: prompts and answers as they may stand in the record: without secrets, bounded, harmless to a terminal.

No rule finds every secret: docs/log.md says so to whoever switches bodies on.
"""

import re
from typing import Any

import msgspec

from gateway.bodies import Bodies
from gateway.config import BodySettings
from gateway.logs.line import redact

REDACTED = "[redacted]"
MARGIN = 4096  # is looked at beyond what is kept: a secret that the cut divides would match no rule
_LONG_DATA = 200  # characters of a data: URL
# keys as their makers announce them: OpenAI and others, AWS, GitHub, Slack, Google; and PEM
_KEYS = re.compile(
    r"\b(?:sk|pk|rk)-[A-Za-z0-9_-]{16,}|\bAKIA[0-9A-Z]{16}|\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}"
    r"|\bxox[abprs]-[A-Za-z0-9-]{10,}|\bAIza[\w-]{30,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*-----|\Z)",
    re.DOTALL,
)
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
# a value after its name: quoted (perhaps inside a quoted text), an object or list (then all that follows goes), a word.
# Possessive quantifiers: nothing that a caller sends makes it look twice at the same character
_VALUE = r"""\s*+[:=]\s*+(?:\\*+"(?:[^"\\]|\\[^"]|\\"(?=[^\s,}\]:]))*(?:\\*+")?|'[^']*+'?|[\[{].*|[^\s,;}\]"']++)"""


class Redactor:
    """The rules of one configuration."""

    def __init__(self, settings: BodySettings) -> None:
        self._most = settings.max_bytes
        self._fields = frozenset(name.lower() for name in settings.redact_fields)
        names = "|".join(map(re.escape, sorted(self._fields, key=len, reverse=True)))
        named = [rf"(?is)(?P<name>\b(?:{names})\b\\*+[\"']?){_VALUE}"] if names else []
        self._named = [re.compile(pattern) for pattern in named]
        self._patterns = [re.compile(pattern) for pattern in settings.redact_patterns]

    def request(self, bodies: Bodies) -> str:
        """What was asked."""
        return self._body(bodies.request, bodies.request_size)

    def answer(self, bodies: Bodies) -> str | None:
        """What was answered; None where nothing was."""
        if bodies.answer is not None:
            return self._body(bodies.answer, len(bodies.answer) + (not bodies.answer_is_whole))
        text = bodies.text
        return self._cut(self.text(text), whole=bodies.answer_is_whole) if text else None

    def text(self, text: str) -> str:
        """A text without what the rules find."""
        for pattern in self._named:
            text = pattern.sub(rf"\g<name>: {REDACTED}", text)
        for pattern in (_KEYS, *self._patterns):
            text = pattern.sub(REDACTED, text)
        return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), redact(text))

    def _body(self, body: bytes, size: int) -> str:
        """A JSON body value by value; as a text, where it was cut or is no JSON."""
        if size == len(body):
            try:
                clean = msgspec.json.encode(self._walk(msgspec.json.decode(body))).decode()
            except (msgspec.MsgspecError, UnicodeError, RecursionError):
                pass
            else:
                return self._cut(clean, whole=True)
        return self._cut(self.text(body.decode(errors="replace")), whole=size == len(body))

    def _walk(self, value: Any) -> Any:
        match value:
            case dict():
                return {
                    self.text(name): REDACTED if name.lower() in self._fields else self._walk(inner)
                    for name, inner in value.items()
                }
            case list():
                return [self._walk(inner) for inner in value]
            case str() if len(value) > _LONG_DATA and value.startswith("data:"):
                return f"{self.text(value[:40])}… ({len(value)} characters)"
            case str():
                return self.text(value)
            case _:
                return value

    def _cut(self, text: str, *, whole: bool) -> str:
        kept = text.encode("utf-8", "replace")[: self._most].decode(errors="ignore")
        return kept if whole and len(kept) == len(text) else f"{kept}… (cut)"
