"""Who is calling? From a request's credentials to a Principal. On the bearer path nothing is awaited."""

from aiohttp import hdrs, web
from multidict import CIMultiDictProxy, istr

from gateway.auth.bodies import session_cookie
from gateway.auth.claims import Identity
from gateway.auth.csrf import SAFE_METHODS, require_json, require_own_page
from gateway.auth.revocations import RevocationList
from gateway.auth.sessions import Sessions, SignedIn
from gateway.auth.tokens import TokenVerifier
from gateway.config import AuthSettings
from gateway.context import Principal
from gateway.errors import BadRequest, Forbidden, Unauthorized

_API_KEY = istr("x-api-key")

CREDENTIAL: web.RequestKey[object] = web.RequestKey("credential", object)
"""What a request's caller was proven by."""


class Authenticator:
    """Accepts `Authorization: Bearer <JWT>`, `x-api-key: <JWT>` (Anthropic's clients), or the chat's session cookie."""

    def __init__(
        self, auth: AuthSettings, verifier: TokenVerifier, sessions: Sessions, revocations: RevocationList
    ) -> None:
        self._auth = auth
        self.verifier = verifier
        self.sessions = sessions
        self.revocations = revocations
        self.cookie = session_cookie(auth)

    def by_token(self, request: web.Request) -> Principal | None:
        """The caller that a token proves; None where the request has none. Raises as `authenticate` does."""
        token = bearer_token(request.headers)
        if token is None:
            return None
        identity = request[CREDENTIAL] = self.verifier.identify(token)
        return identity.principal

    async def authenticate(self, request: web.Request) -> Principal:
        """The caller.

        Unauthorized when nothing proves one, BadRequest for credentials that contradict each other, Forbidden when a
        request that rests on the cookie did not come from our own page, Unavailable when sessions cannot be read.
        """
        if (principal := self.by_token(request)) is not None:
            return principal
        cookie = self.cookie.read(request)
        if cookie is None:
            raise Unauthorized("No credentials; send Authorization: Bearer <token>.", code="token_missing")
        if request.method not in SAFE_METHODS:
            require_json(request)
            require_own_page(request, self._auth)
        signed_in = request[CREDENTIAL] = await self.sessions.resolve(cookie)
        return signed_in.principal

    def refusal(self, request: web.Request) -> Unauthorized | None:
        """Why a request whose caller was known would be refused now: what proved them was revoked meanwhile."""
        match request.get(CREDENTIAL):
            case Identity() as identity:
                return self.verifier.refusal(identity)
            case SignedIn() as signed_in:
                return self.sessions.refusal(signed_in)
            case _:
                return None

    async def is_over(self, request: web.Request) -> bool:
        """Whether the session that a request was let in by has ended since: revoked, or not used for too long."""
        signed_in = request.get(CREDENTIAL)
        return isinstance(signed_in, SignedIn) and await self.sessions.is_over(signed_in)

    async def signed_in(self, request: web.Request) -> SignedIn:
        """The chat session of a request; tokens do not count. Raises as `authenticate` does, CSRF excepted."""
        return await self.sessions.resolve(self.cookie.read(request) or "")


def bearer_token(headers: CIMultiDictProxy[str]) -> str | None:
    """The token that a request presents. BadRequest when it presents two that differ."""
    token: str | None = None
    for value in headers.getall(hdrs.AUTHORIZATION, ()):
        token = _only(token, _after_scheme(value))
    if _API_KEY in headers:
        for value in headers.getall(_API_KEY):
            token = _only(token, value)
    return token


def _only(token: str | None, another: str) -> str:
    if token is not None and token != another:
        raise BadRequest("The request presents different tokens; send one.", code="conflicting_credentials")
    return another


def _after_scheme(value: str) -> str:
    scheme, _, token = value.partition(" ")
    if scheme != "Bearer" and scheme.lower() != "bearer":
        raise Unauthorized("Use Authorization: Bearer <token>.", code="token_malformed")
    return token.strip(" ")


def require_scope(principal: Principal, scope: str) -> None:
    """Forbidden, naming the scope, when the caller lacks it."""
    if scope not in principal.scopes:
        raise Forbidden(
            f"This needs the scope `{scope}`, which your credentials do not have.", code="insufficient_scope"
        )
