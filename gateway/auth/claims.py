"""From a token's JSON to an identity: strict about types, silent about nothing. Pure.

Claims: RFC 7519 (`sub exp iat nbf iss aud jti`), RFC 8693 (`scope`), and the house's own `team plan models`.
"""

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Never, Self

from gateway.config import AuthSettings, ClaimNames, IssuerSettings
from gateway.context import Principal, Via

MAX_TEXT = 256  # characters of a name
MAX_ITEMS = 64  # scopes or models
MAX_GROUPS = 1024  # of a foreign directory; the token's size bounds them, too
MAX_TIME = 2.0**53  # NumericDate beyond exact floats is nonsense
_DAY = 86_400
HOUSE_NAMES = ClaimNames()


@dataclass(frozen=True, slots=True)
class Refusal:
    """One reason not to accept a token; `code` is stable, `message` is for a developer."""

    code: str
    message: str


EXPIRED = Refusal("token_expired", "The token has expired; get a new one.")


@dataclass(frozen=True, slots=True)
class ClaimRules:
    """What the tokens of one issuer must say, where they say it, and what holds where they say nothing."""

    issuer: str | None  # none: any
    audience: frozenset[str] | None  # none: any
    leeway: float  # seconds
    max_days: int
    default_scopes: frozenset[str]
    default_plan: str
    names: ClaimNames = HOUSE_NAMES
    default_team: str | None = None
    subject_prefix: str = ""
    grants: frozenset[str] | None = None  # none: any scope
    scope_names: Mapping[str, str] | None = None
    plan_names: Mapping[str, str] | None = None
    max_items: int = MAX_ITEMS

    @classmethod
    def of_house(cls, auth: AuthSettings) -> Self:
        """The rules for tokens issued here."""
        return cls(
            issuer=auth.issuer,
            audience=None if auth.audience is None else frozenset({auth.audience}),
            leeway=auth.leeway_seconds,
            max_days=auth.max_token_days,
            default_scopes=frozenset(auth.default_scopes),
            default_plan=auth.default_plan,
        )

    @classmethod
    def of_issuer(cls, issuer: IssuerSettings, auth: AuthSettings) -> Self:
        """The rules for tokens of a foreign issuer."""
        return cls(
            issuer=issuer.issuer,
            audience=frozenset(issuer.audience),
            leeway=auth.leeway_seconds,
            max_days=auth.max_token_days,
            default_scopes=frozenset(issuer.default_scopes),
            default_plan=issuer.default_plan or auth.default_plan,
            names=issuer.claims,
            default_team=issuer.default_team,
            subject_prefix=f"{issuer.name}:" if issuer.subject_prefix is None else issuer.subject_prefix,
            grants=frozenset(issuer.grants),
            scope_names=issuer.scope_names or None,
            plan_names=issuer.plan_names or None,
            max_items=MAX_GROUPS,
        )

    @classmethod
    def of_sign_in(cls, issuer: IssuerSettings, auth: AuthSettings, client_id: str) -> Self:
        """The rules for ID tokens: the same names and groups; a user of the chat has the users' plan."""
        rules = cls.of_issuer(issuer, auth)
        return replace(rules, audience=frozenset({client_id}), default_plan=issuer.default_plan or auth.user_plan)

    def scopes(self, named: Collection[str] | None) -> frozenset[str]:
        """The scopes that a token's words grant."""
        if named is None:
            return self.default_scopes
        if self.scope_names is not None:
            named = [self.scope_names[name] for name in named if name in self.scope_names]
        return frozenset(named) if self.grants is None else self.grants.intersection(named)


@dataclass(frozen=True, slots=True)
class Identity:
    """What a token says, after all of it was found sound."""

    principal: Principal
    issued_at: float
    expires_at: float


def strict_json(data: bytes) -> dict[str, Any]:
    """Decode a JSON object; ValueError for anything two parsers could read differently.

    That is: names given twice, NaN and Infinity, encodings other than UTF-8.
    """
    try:
        value = _DECODER.decode(data.decode())
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - the one error of this function
    return value


def read_claims(
    claims: dict[str, Any], rules: ClaimRules, plans: Collection[str], now: float
) -> tuple[Identity | None, list[Refusal]]:
    """The identity, or every reason why there is none, the most telling first. `now` is Unix time."""
    reader = _Reader(claims, rules.max_items)
    names = rules.names
    subject = reader.text(names.subject, required=True)
    token_id = reader.text("jti")
    issuer = reader.text("iss")
    team = reader.text(names.team)
    plan = reader.text(names.plan) if rules.plan_names is None else _mapped(reader.words(names.plan), rules.plan_names)
    audience = reader.words("aud", one_word=True)
    scopes = reader.words(names.scopes, one_word=False)
    models = reader.words(names.models, one_word=None)
    expires_at = reader.time("exp", required=True)
    issued_at = reader.time("iat", required=True)
    not_before = reader.time("nbf")
    refusals = reader.refusals
    if models == ():  # in a Principal, no globs mean every model: the opposite of what this token says
        reader.refuse(f"The claim `{names.models}` is empty; leave it out to allow every model.")
    if rules.issuer is not None and issuer != rules.issuer:
        refusals.append(Refusal("wrong_issuer", "The token's `iss` is not accepted here."))
    if rules.audience is not None and rules.audience.isdisjoint(audience or ()):
        refusals.append(Refusal("wrong_audience", "The token's `aud` does not name this service."))
    refusals += _check_times(issued_at, not_before, expires_at, rules, now)
    plan = rules.default_plan if plan is None else plan
    if plan not in plans:
        refusals.append(Refusal("unknown_plan", "The token's `plan` is not one of this service's plans."))
    if refusals or subject is None or issued_at is None or expires_at is None:
        return None, refusals
    principal = Principal(
        subject=rules.subject_prefix + subject,
        team=rules.default_team if team is None else team,
        scopes=rules.scopes(scopes),
        plan=plan,
        models=models or (),
        token_id=token_id,
        via=Via.BEARER,
    )
    return Identity(principal, issued_at, expires_at), refusals


def _mapped(groups: tuple[str, ...] | None, names: Mapping[str, str]) -> str | None:
    return next((mapped for group, mapped in names.items() if group in (groups or ())), None)


def _check_times(
    issued_at: float | None, not_before: float | None, expires_at: float | None, rules: ClaimRules, now: float
) -> list[Refusal]:
    refusals = []
    leeway = rules.leeway
    if expires_at is not None and now >= expires_at + leeway:
        refusals.append(EXPIRED)
    if any(start is not None and start > now + leeway for start in (issued_at, not_before)):
        refusals.append(
            Refusal("token_not_yet_valid", "The token's `iat` or `nbf` lies in the future; are the clocks right?")
        )
    if issued_at is not None and expires_at is not None:
        if expires_at <= issued_at:
            refusals.append(Refusal("token_malformed", "The token's `exp` is not after its `iat`."))
        elif expires_at - issued_at > rules.max_days * _DAY:
            refusals.append(
                Refusal("token_lifetime_too_long", f"Tokens may live {rules.max_days} days; this one has more.")
            )
    return refusals


def look_up(claims: Mapping[str, Any], path: str) -> Any:
    """What stands at a claim's name or dotted path; None where nothing does.

    A name that contains dots itself (`https://example.com/groups`) is taken whole where it is there.
    """
    if path in claims:
        return claims[path]
    at = path.find(".")
    while at >= 0:
        inner = claims.get(path[:at])
        if isinstance(inner, dict) and (found := look_up(inner, path[at + 1 :])) is not None:
            return found
        at = path.find(".", at + 1)
    return None


class _Reader:
    """Takes claims by name and type; what does not fit becomes a refusal. A null claim counts as absent."""

    def __init__(self, claims: dict[str, Any], max_items: int) -> None:
        self._claims = claims
        self._max_items = max_items
        self.refusals: list[Refusal] = []

    def refuse(self, message: str) -> None:
        self.refusals.append(Refusal("token_malformed", message))

    def text(self, name: str, *, required: bool = False) -> str | None:
        value = self._take(name, required=required)
        if value is None:
            return None
        if _is_text(value):
            return str(value)
        self.refuse(f"The claim `{name}` must be printable text of 1 to {MAX_TEXT} characters.")
        return None

    def time(self, name: str, *, required: bool = False) -> float | None:
        value = self._take(name, required=required)
        if value is None:
            return None
        # bool is an int to Python; a huge int does not fit a float
        if type(value) in (int, float) and 0 <= value <= MAX_TIME and math.isfinite(value):
            return float(value)
        self.refuse(f"The claim `{name}` must be a time in seconds since 1970, as a number.")
        return None

    def words(self, name: str, *, one_word: bool | None = True) -> tuple[str, ...] | None:
        """A list of texts. A bare text is one word, or words between spaces, or (None) not allowed."""
        value = self._take(name)
        if value is None:
            return None
        if isinstance(value, str) and one_word is not None:
            value = [value] if one_word else value.split()
        if isinstance(value, list) and len(value) <= self._max_items and all(map(_is_text, value)):
            return tuple(value)
        self.refuse(f"The claim `{name}` must be a list of at most {self._max_items} texts.")
        return None

    def _take(self, name: str, *, required: bool = False) -> Any:
        value = look_up(self._claims, name)
        if required and value is None:
            self.refuse(f"The claim `{name}` is missing.")
        return value


def _is_text(value: object) -> bool:
    # isprintable: no control characters to forge log lines with, no lone surrogates that cannot be encoded
    return isinstance(value, str) and 0 < len(value) <= MAX_TEXT and value.isprintable()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name is given twice")
    return result


def _no_constant(_: str) -> Never:
    raise ValueError("not a JSON number")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_constant)
