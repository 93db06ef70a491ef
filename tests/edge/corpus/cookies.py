"""Chat sessions: cross-site requests, cookie tossing, and the routes of people's browsers."""

import json

from tests.edge.corpus.case import AS_HELLO, ORIGIN, SESSION, Case, get, request

_CSRF = "another site's page makes the browser send the cookie"
_TOSS = "a cookie that another host of the same site, or another port, has planted"
COOKIE = f"Cookie: __Host-session={SESSION}"
OWN = "Sec-Fetch-Site: same-origin"


def signed_in(*fields: str, cookie: str = COOKIE, **how: object) -> bytes:
    """A request that rests on the session."""
    return request(cookie, *fields, **{"without": "authorization", **how})  # type: ignore[arg-type]


def login(body: object, *fields: str, without: str = "authorization") -> bytes:
    """An attempt to sign in."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return request(*fields, path="/auth/login", body=data, without=without)


CASES = [
    Case("session", "the page's own request", signed_in(OWN), 200, engine=AS_HELLO),
    Case("session-origin", "a browser without Sec-Fetch-Site", signed_in(f"Origin: {ORIGIN}"), 200, engine=AS_HELLO),
    Case("session-no-marks", _CSRF, signed_in(), 403, code="cross_site_request"),
    Case("session-cross-site", _CSRF, signed_in("Sec-Fetch-Site: cross-site"), 403, code="cross_site_request"),
    Case("session-same-site", "a sister host is another site, too", signed_in("Sec-Fetch-Site: same-site"), 403, code="cross_site_request"),
    Case("session-cross-site-own-origin", "the browser's word goes before Origin's", signed_in("Sec-Fetch-Site: cross-site", f"Origin: {ORIGIN}"), 403),
    Case("session-other-origin", _CSRF, signed_in("Origin: https://evil.example"), 403),
    Case("session-origin-null", "a sandboxed frame", signed_in("Origin: null"), 403),
    Case("session-origin-prefix", _CSRF, signed_in("Origin: https://localhost.evil.example"), 403),
    Case("session-origin-user", _CSRF, signed_in("Origin: https://localhost@evil.example"), 403),
    Case("session-origin-port", "another port is another origin", signed_in("Origin: https://localhost:8443"), 403),
    Case("session-origin-twice", "two marks", signed_in("Origin: https://evil.example", f"Origin: {ORIGIN}"), 403),
    Case("session-fetch-site-twice", "two marks", signed_in("Sec-Fetch-Site: cross-site", OWN), 403),
    Case("session-fetch-site-unknown", "a mark that nobody knows", signed_in("Sec-Fetch-Site: evil"), 403),
    Case("session-referer", "a referer is no proof", signed_in("Referer: https://localhost/"), 403),
    Case("session-form", "a form of another page needs no permission", signed_in(OWN, "Content-Type: application/x-www-form-urlencoded", without="authorization content-type"), 415),
    Case("session-text-plain", "nor does text/plain with JSON in it", signed_in(OWN, "Content-Type: text/plain", without="authorization content-type"), 415),
    Case("session-no-type", "nor does a body without a type", signed_in(OWN, without="authorization content-type"), 415),
    Case("session-wrong", "a value that was made up", signed_in(OWN, cookie="Cookie: __Host-session=" + "e" * 43), 401, code="session_expired"),
    Case("session-short", "no value of ours", signed_in(OWN, cookie="Cookie: __Host-session=evil"), 401),
    Case("session-empty", "no value", signed_in(OWN, cookie="Cookie: __Host-session="), 401),
    Case("session-sql", "a value is no query", signed_in(OWN, cookie="Cookie: __Host-session=' OR '1'='1"), 401),
    Case("session-without-prefix", _TOSS, signed_in(OWN, cookie=f"Cookie: session={SESSION}"), 401, code="token_missing"),
    Case("session-secure-prefix", _TOSS, signed_in(OWN, cookie=f"Cookie: __Secure-session={SESSION}"), 401, code="token_missing"),
    Case("session-other-case", "names have a case; browsers once took __host- for no prefix", signed_in(OWN, cookie=f"Cookie: __host-session={SESSION}"), 401, code="token_missing"),
    Case("session-space-name", "a name with white space that parsers trim", signed_in(OWN, cookie=f"Cookie: \u2000__Host-session={SESSION}"), 401),
    Case("session-nameless", "a cookie without a name, whose value looks like one", signed_in(OWN, cookie=f"Cookie: =__Host-session={SESSION}"), 401),
    Case("session-twice-planted-first", _TOSS, signed_in(OWN, cookie=f"Cookie: __Host-session={'e' * 43}; __Host-session={SESSION}"), 401, code="session_expired"),
    Case("session-twice-planted-last", _TOSS, signed_in(OWN, cookie=f"Cookie: __Host-session={SESSION}; __Host-session={'e' * 43}"), 401, code="session_expired"),
    Case("session-twice-in-two-fields", _TOSS, signed_in(OWN, f"Cookie: __Host-session={'e' * 43}"), 401),
    Case("session-twice-the-same", "twice the same is one", signed_in(OWN, cookie=f"Cookie: __Host-session={SESSION}; __Host-session={SESSION}"), 200, engine=AS_HELLO),
    Case("session-quoted", "a value in quotes that hides another cookie", signed_in(OWN, cookie=f'Cookie: a="; __Host-session={SESSION}"'), 401),
    Case("session-behind-broken-cookies", "cookies of others do not hide ours", signed_in(OWN, cookie=f"Cookie: evil; =; a=\x01; b={{}}; __Host-session={SESSION}".replace("\x01", "")), 200, engine=AS_HELLO),
    Case("session-legacy-version", "$Version changes nothing (RFC 2109)", signed_in(OWN, cookie=f"Cookie: $Version=1; __Host-session={SESSION}; $Path=/"), 200, engine=AS_HELLO),
    Case("session-many-cookies", "hundreds of them", signed_in(OWN, cookie="Cookie: " + "; ".join(f"c{i}=v" for i in range(500)) + f"; __Host-session={SESSION}"), 200, engine=AS_HELLO),
    Case("session-and-bad-token", "a bad token is not healed by a session", signed_in(OWN, "Authorization: Bearer evil"), 401, code="token_malformed"),
    Case("session-get-cross-site", "a GET changes nothing, and no other page can read it", get("/auth/session", COOKIE, "Sec-Fetch-Site: cross-site", without="authorization"), 200),
    Case("logout-cross-site", _CSRF, signed_in("Sec-Fetch-Site: cross-site", path="/auth/logout", body=b"{}"), 403),
    Case("logout-form", _CSRF, signed_in(path="/auth/logout", body=b"", without="authorization content-type"), 415),
    Case("logout-get", "an image's address must not sign out", get("/auth/logout", COOKIE, without="authorization"), 405),
    Case("logout-everywhere-cross-site", _CSRF, signed_in("Sec-Fetch-Site: cross-site", path="/auth/logout-everywhere", body=b"{}"), 403),
    Case("password-cross-site", _CSRF, signed_in("Sec-Fetch-Site: cross-site", path="/api/account/password", body=b'{"current":"x","new":"y"}'), 403),
    Case("password-with-a-token", "a token is no session, and its request has no marks of our page", request(path="/api/account/password", body=b'{"current":"x","new":"y"}'), 403),
    Case("token-cross-site", _CSRF, signed_in("Sec-Fetch-Site: cross-site", path="/api/account/tokens", body=b"{}"), 403),
    Case("revoke-cross-site", _CSRF, signed_in("Sec-Fetch-Site: cross-site", method="DELETE", path="/api/account/tokens/x", body=b"{}"), 403),
    Case("session-of-others", "an id that is not one's own", signed_in(OWN, "Content-Type: application/json", method="DELETE", path="/api/account/sessions/00000000000000000000", body=b""), 404),
    Case("login-cross-site", "signing somebody in as the attacker", login({"username": "corpus", "password": "x"}, "Sec-Fetch-Site: cross-site"), 403),
    Case("login-form", "likewise", login(b"username=corpus&password=x", "Content-Type: application/x-www-form-urlencoded", without="authorization content-type"), 415),
    Case("login-array", "a body of another shape", login(["corpus", "x"]), 400),
    Case("login-operator", "no query language", login({"username": {"$ne": ""}, "password": {"$ne": ""}}), 400),
    Case("login-extra-field", "no field of one's own", login({"username": "corpus", "password": "x", "plan": "service"}), 400),
    Case("login-large", "4 KiB are enough", login({"username": "corpus", "password": "x" * 10_000}), 413),
    Case("login-nul", "a string's end for some", login({"username": "corpus\0", "password": "x"}), 401),
    Case("login-get", "passwords are not in addresses", get("/auth/login?username=corpus&password=x"), 405),
    Case("sso-redirect", "an unknown provider sends nobody anywhere", get("/auth/sso/evil?next=https://evil.example"), 404),
    Case("engine-status-without-session", "who is not signed in learns nothing", get("/api/engine", without="authorization"), 401),
    Case("account-without-session", "likewise", get("/api/account", without="authorization"), 401),
]
