"""What the simulated engine says: answers worth reading in a demo, in the language of the question.

Every answer says that it is simulated. Same prompt and seed, same answer. The text stands in `answers.en.md` and
`answers.zh.md`, variants of a part each behind a line `=== part`.
"""

from __future__ import annotations

import random
import re
from functools import cache
from pathlib import Path

_CJK = re.compile(r"[\u3400-\u9fff]")
_QUOTED = 60
_BODY = ("list", "code", "table")


def answer(question: str, seed: int) -> tuple[str, str]:
    """(reasoning, answer in Markdown) to `question`."""
    book = _book("zh" if _CJK.search(question) else "en")
    choose = random.Random(seed)  # noqa: S311  # variety, not secrecy
    asked = " ".join(question.split())
    asked = asked[:_QUOTED] + ("…" if len(asked) > _QUOTED else "")
    body = [choose.choice(book[part]) for part in _BODY]
    choose.shuffle(body)
    parts = [choose.choice(book["opening"]), *body, choose.choice(book["closing"])]
    thought = choose.choice(book["reasoning"])
    return thought.replace("{asked}", asked), "\n\n".join(parts).replace("{asked}", asked)


def completion(seed: int) -> str:
    """A continuation for /v1/completions."""
    book = _book("en")
    choose = random.Random(seed)  # noqa: S311
    return " " + choose.choice(book["opening"]).replace("{asked}", "some text") + "\n\n" + choose.choice(book["list"])


@cache
def _book(language: str) -> dict[str, list[str]]:
    """The variants of each part."""
    text = Path(__file__).with_name(f"answers.{language}.md").read_text(encoding="utf-8")
    book: dict[str, list[str]] = {}
    for section in text.split("=== ")[1:]:
        part, _, variant = section.partition("\n")
        book.setdefault(part, []).append(variant.strip("\n"))
    return book
