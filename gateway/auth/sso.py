"""Signing in at an identity provider: OpenID Connect's authorization code flow with PKCE.

    /auth/sso/NAME ──302──▶ the provider: the person signs in there ──302──▶ /auth/sso/NAME/callback?code&state
    cookie: seed                                                             code + verifier ──▶ ID token, groups

An own client rather than Authlib's: what the flow needs beyond HTTP is verifying a token by a published key set, which
is here already and stricter; Authlib has no client for aiohttp and would bring a second HTTP stack and a second JOSE.

Nothing is kept between the two requests: the cookie holds a random seed, and state, nonce and PKCE verifier are derived
from it with a key that only this house has. So any worker can finish what another began, and neither who sees the URL
nor who sees the cookie knows the other half.
Sources: OpenID Connect Core 1.0, sections 3.1.2 and 3.1.3; RFC 7636 (PKCE); RFC 9207 (`iss`); RFC 9700, section 2.1.
"""

import base64
import hashlib
import hmac
import secrets
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any
from urllib.parse import quote, urlencode

from gateway.auth.claims import ClaimRules, Refusal, look_up, read_claims
from gateway.auth.fetch import Discovery, Document, Fetcher, require_safe
from gateway.auth.keys import KeyFileError, KeyFinder, encode_segment, read_secret_file
from gateway.auth.published import FetchError, PublishedKeys
from gateway.auth.signed import Opened, open_token
from gateway.auth.users import InvalidName, Person, normal_name
from gateway.config import AuthSettings, IssuerSettings, SsoSettings

SIGN_IN_SECONDS = 600  # what a person may take at the provider
METADATA_SECONDS = 300
MIN_CLIENT_SECRET = 8  # the provider made it; here it is only kept from mistakes


class SignInFailed(Exception):
    """The sign-in came to nothing. `code` is for the page, the text for the log; neither holds a secret."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class SsoProvider:
    """One provider that people sign in at."""

    def __init__(
        self,
        settings: IssuerSettings,
        sso: SsoSettings,
        auth: AuthSettings,
        plans: Collection[str],
        *,
        keys: KeyFinder,
        fetcher: Fetcher,
        secret: bytes,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.name = settings.name
        self._settings = settings
        self._sso = sso
        self._client_secret = _client_secret(sso)
        self._rules = ClaimRules.of_sign_in(settings, auth, sso.client_id)
        self._plans = plans
        self._keys = keys
        self._fetcher = fetcher
        self._discovery = Discovery(fetcher, settings.issuer)
        self._metadata: tuple[float, dict[str, Any]] = (float("-inf"), {})
        self._secret = hmac.digest(secret, f"gatehouse sso {settings.name}".encode(), "sha256")
        self._redirect_uri = f"{auth.public_url}/auth/sso/{settings.name}/callback"
        self._clock = clock

    async def begin(self) -> tuple[str, str]:
        """Where to send the browser, and the cookie's value. SignInFailed when the provider cannot be found."""
        seed = f"{int(self._clock())}.{secrets.token_urlsafe(24)}"
        query = {
            "response_type": "code",
            "client_id": self._sso.client_id,
            "redirect_uri": self._redirect_uri,
            "scope": " ".join(self._sso.scopes),
            "state": self._derive("state", seed),
            "nonce": self._derive("nonce", seed),
            "code_challenge": encode_segment(hashlib.sha256(self._derive("verifier", seed).encode()).digest()),
            "code_challenge_method": "S256",
        }
        endpoint = await self._endpoint("authorization_endpoint")
        return f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(query)}", seed

    async def finish(self, query: Mapping[str, str], seed: str) -> Person:
        """Who came back from the provider with that query and the cookie's value; SignInFailed when that is nobody."""
        self._check_return(query, seed)
        tokens = await self._redeem(query["code"], seed)
        claims = await self._proven(str(tokens.get("id_token", "")), seed)
        claims = {**await self._userinfo(tokens, claims), **claims}
        identity, refusals = read_claims(claims, self._rules, self._plans, self._clock())
        if identity is None:
            raise _refused(refusals[0])
        principal, rules = identity.principal, self._rules
        directed = rules.plan_names is not None or look_up(claims, rules.names.plan) is not None
        return Person(self._account(principal.subject), _shown(claims), principal.team, principal.plan, directed)

    def _account(self, subject: str) -> str:
        """The name of their account: with a prefix nobody else's can be; without one it is that of the house's user."""
        try:
            return subject if self._rules.subject_prefix else normal_name(subject)
        except InvalidName:
            raise SignInFailed("sso_failed", "the provider's name for the person is no user name") from None

    def _check_return(self, query: Mapping[str, str], seed: str) -> None:
        began, _, _ = seed.partition(".")
        if not hmac.compare_digest(query.get("state", "").encode(), self._derive("state", seed).encode()):
            raise SignInFailed("sso_state", "the state is not that of this browser")
        if not began.isdecimal() or self._clock() - int(began) > SIGN_IN_SECONDS:
            raise SignInFailed("sso_expired", "it took too long")
        if query.get("iss", self._settings.issuer) != self._settings.issuer:
            raise SignInFailed("sso_failed", "the answer is another provider's")
        if "error" in query:
            denied = query["error"] in {"access_denied", "login_required", "consent_required", "interaction_required"}
            error = query["error"] if query["error"].isidentifier() else "an error"
            raise SignInFailed("sso_denied" if denied else "sso_failed", f"the provider says {error[:40]}")
        if not query.get("code"):
            raise SignInFailed("sso_failed", "the provider sent no code")

    async def _redeem(self, code: str, seed: str) -> dict[str, Any]:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._redirect_uri,
            "code_verifier": self._derive("verifier", seed),
        }
        headers = {}
        if self._client_secret is None:
            form["client_id"] = self._sso.client_id
        else:  # RFC 6749, section 2.3.1: form-encoded before it is Basic
            login = f"{quote(self._sso.client_id, safe='')}:{quote(self._client_secret, safe='')}"
            headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
        answer = await self._asked(self._fetcher.post(await self._endpoint("token_endpoint"), form, headers))
        if answer[0] != 200:
            raise SignInFailed("sso_failed", f"the provider does not redeem the code: status {answer[0]}")
        return answer[1]

    async def _proven(self, id_token: str, seed: str) -> dict[str, Any]:
        found = Opened()
        refusal = next(open_token(id_token, lambda _: self._keys, found), None)
        if refusal is not None and refusal.code == "unknown_key" and isinstance(self._keys, PublishedKeys):
            if self._keys.wait() <= 0:  # this is no request of a program: the person waits for the key
                await self._keys.refresh()
            refusal = next(open_token(id_token, lambda _: self._keys, found), None)
        if refusal is not None:
            raise _refused(refusal)
        claims = found.claims
        if claims.get("nonce") != self._derive("nonce", seed):
            raise SignInFailed("sso_failed", "the ID token is for another sign-in")
        if claims.get("azp", self._sso.client_id) != self._sso.client_id:
            raise SignInFailed("sso_failed", "the ID token is for another client")
        if claims.get("iss") != self._settings.issuer:
            raise SignInFailed("sso_failed", "the ID token is another issuer's")
        return claims

    async def _userinfo(self, tokens: Mapping[str, Any], claims: Mapping[str, Any]) -> dict[str, Any]:
        """What many providers say there only: names and groups. Its `sub` must be the ID token's."""
        access = tokens.get("access_token")
        if "userinfo_endpoint" not in await self._known() or not isinstance(access, str) or not access.isprintable():
            return {}
        endpoint = await self._endpoint("userinfo_endpoint")
        status, more = await self._asked(self._fetcher.get(endpoint, {"Authorization": f"Bearer {access}"}))
        if status != 200 or more.get("sub") != claims.get("sub"):
            raise SignInFailed("sso_failed", "userinfo is about somebody else")
        return more

    async def _endpoint(self, name: str) -> str:
        try:
            return require_safe((await self._known()).get(name))
        except FetchError as error:
            raise SignInFailed("sso_unavailable", f"{name}: {error}") from None

    async def _known(self) -> dict[str, Any]:
        until, metadata = self._metadata
        if self._clock() >= until:
            try:
                metadata = await self._discovery.fetch()
            except FetchError as error:
                raise SignInFailed("sso_unavailable", str(error)) from None
            self._metadata = (self._clock() + METADATA_SECONDS, metadata)
        return metadata

    async def _asked(self, request: Awaitable[Document]) -> tuple[int, dict[str, Any]]:
        try:
            document = await request
            return document.status, document.json() if document.status == 200 else {}
        except FetchError as error:
            raise SignInFailed("sso_unavailable", str(error)) from None
        except ValueError:
            raise SignInFailed("sso_failed", "the provider's answer is not JSON") from None

    def _derive(self, purpose: str, seed: str) -> str:
        return encode_segment(hmac.digest(self._secret, f"{purpose} {seed}".encode(), "sha256"))


def _refused(refusal: Refusal) -> SignInFailed:
    return SignInFailed("sso_failed", f"the ID token is refused: {refusal.code}: {refusal.message}")


def _shown(claims: Mapping[str, Any]) -> str:
    """How the chat addresses them."""
    names = (look_up(claims, name) for name in ("name", "preferred_username", "email", "sub"))
    return next(name[:100] for name in names if isinstance(name, str) and name and name.isprintable())


def _client_secret(sso: SsoSettings) -> str | None:
    if sso.client_secret_file is None:
        return None
    try:
        return read_secret_file(sso.client_secret_file, MIN_CLIENT_SECRET).decode("ascii")
    except UnicodeDecodeError:
        raise KeyFileError(f"{sso.client_secret_file}: a client secret is ASCII text") from None
