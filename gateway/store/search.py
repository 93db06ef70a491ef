"""Finding words in chats, in Chinese too. The same terms on both databases; only how they are kept differs.

Chinese, Japanese and Korean put no spaces between words, and neither database cuts their texts into words by itself.
So of a run of their characters each pair that stands together is a term, and the last character by itself: a word of
one character is found as the beginning of a pair, one of two as a pair, a longer one by all its pairs and then in the
text. Other words are terms as they stand, in lower case and NFKC, and are found by their beginnings.

The owner is a term, too: nobody's search walks through the messages of others.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, and_, column, func, literal, literal_column, table, text

MOST_CHARACTERS = 100_000  # of a text are searched; a tsvector holds 1 MB
LONGEST_TERM = 64  # characters; what is longer is no word
MOST_WORDS = 16
# Han with its extensions, kana, Hangul, bopomofo
_CJK = (
    "\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff\u3100-\u312f\u31a0-\u31ff\u3400-\u9fff"
    "\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
)
_RUN = re.compile(f"[{_CJK}]+|[^\\W_{_CJK}]+")
_IS_CJK = re.compile(f"[{_CJK}]")

SEARCH = table("chat_search", column("rowid"), column("terms"))


@dataclass(frozen=True, slots=True)
class Query:
    """What is looked for: terms as they are, beginnings of terms, and texts that must stand there literally."""

    exact: tuple[str, ...]
    beginnings: tuple[str, ...]
    literal: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.exact or self.beginnings)


def terms_of(content: str) -> set[str]:
    """The terms under which a text is found."""
    found: set[str] = set()
    for run in _runs(content[:MOST_CHARACTERS]):
        if _IS_CJK.match(run):
            found.update(run[i : i + 2] for i in range(len(run)))
        else:
            found.add(run[:LONGEST_TERM])
    return found


def query_of(words: str) -> Query:
    """What a reader who typed these words is looking for."""
    exact: list[str] = []
    beginnings: list[str] = []
    literal: list[str] = []
    for run in list(_runs(words))[:MOST_WORDS]:
        if not _IS_CJK.match(run):
            beginnings.append(run[:LONGEST_TERM])
        elif len(run) == 1:
            beginnings.append(run)
        else:
            exact += [run[i : i + 2] for i in range(len(run) - 1)]
            if len(run) > 2:
                literal.append(run)
    return Query(tuple(exact), tuple(beginnings), tuple(literal))


def index(connection: Connection, rowid: int, owner: str, content: str) -> None:
    """Let a text be found. `rowid` is its message's number, or for a title minus its chat's."""
    terms = sorted({*terms_of(content), _owner_term(owner)})
    forget(connection, rowid)
    if connection.dialect.name == "postgresql":
        statement = "INSERT INTO chat_search (rowid, terms) VALUES (:rowid, array_to_tsvector(CAST(:terms AS text[])))"
        connection.execute(text(statement), {"rowid": rowid, "terms": terms})
    else:
        statement = "INSERT INTO chat_search (rowid, terms) VALUES (:rowid, :terms)"
        connection.execute(text(statement), {"rowid": rowid, "terms": " ".join(terms)})


def forget(connection: Connection, *rowids: int) -> None:
    """Let texts be found no more."""
    connection.execute(text("DELETE FROM chat_search WHERE rowid = :rowid"), [{"rowid": rowid} for rowid in rowids])


def matches(query: Query, owner: str, content: ColumnElement[str], dialect: str) -> ColumnElement[bool]:
    """The condition on a row of SEARCH joined with the text that it stands for."""
    exact = (*query.exact, _owner_term(owner))
    found: ColumnElement[bool]
    if dialect == "postgresql":
        wanted = " & ".join([*(f"'{term}'" for term in exact), *(f"'{term}':*" for term in query.beginnings)])
        found = SEARCH.c.terms.op("@@")(func.tsquery(literal(wanted)))
    else:
        wanted = " AND ".join([*(f'"{term}"' for term in exact), *(f'"{term}"*' for term in query.beginnings)])
        found = literal_column("chat_search").op("MATCH")(wanted)
    return and_(found, *(content.contains(run, autoescape=True) for run in query.literal))


def _runs(content: str) -> Iterator[str]:
    for match in _RUN.finditer(unicodedata.normalize("NFKC", content).casefold()):
        yield match[0]


def _owner_term(owner: str) -> str:
    """Begins with a character for private use, as no word does."""
    return "\ue000" + hashlib.sha256(owner.encode()).hexdigest()
