"""Who is calling: schemes, tokens, algorithms, as they come over the wire."""

import json

from tests.edge.corpus.case import AS_HELLO, KID, MESSAGES, SECRET, TOKEN, Case, forged, get, request, token

_SCHEME = "the scheme is Bearer, once"
_ALG = "the algorithm belongs to the key (RFC 8725, section 3.1)"
_KEY = "a token cannot bring its own key"
_CLAIMS = "signed, and still not acceptable"


def bearer(name: str, why: str, value: str, status: int = 401, code: str = "token_malformed", prefix: str = "Bearer ") -> Case:
    """A request with other credentials."""
    return Case(f"token-{name}", why, request(f"Authorization: {prefix}{value}", without="authorization"), status, code=code)


_HEAD, _CLAIM, _SIGNATURE = TOKEN.split(".")
_HS = {"alg": "HS256", "typ": "JWT", "kid": KID}
_BODY = {"model": "gpt-oss-20b", "max_tokens": 3, "messages": [{"role": "user", "content": "hello CASEIDXX"}]}

CASES = [
    Case("no-credentials", _SCHEME, request(without="authorization"), 401, code="token_missing"),
    bearer("basic", _SCHEME, "ZXZpbDpldmls", prefix="Basic "),
    bearer("basic-with-jwt", _SCHEME, TOKEN, prefix="Basic "),
    bearer("no-scheme", _SCHEME, TOKEN, prefix=""),
    bearer("scheme-token", _SCHEME, TOKEN, prefix="Token "),
    bearer("scheme-negotiate", _SCHEME, TOKEN, prefix="Negotiate "),
    bearer("digest", _SCHEME, 'username="evil"', prefix="Digest "),
    bearer("bearer-twice", _SCHEME, f"Bearer {TOKEN}"),
    bearer("bearer-without-space", _SCHEME, TOKEN, prefix="Bearer"),
    bearer("bearer-colon", _SCHEME, TOKEN, prefix="Bearer: "),
    bearer("bearer-tab", _SCHEME, TOKEN, prefix="Bearer\t"),
    bearer("empty", _SCHEME, ""),
    bearer("quoted", _SCHEME, f'"{TOKEN}"'),
    bearer("comma", _SCHEME, f"{TOKEN}, {TOKEN}"),
    Case("scheme-lower-case", "schemes have no case", request(f"Authorization: bearer {TOKEN}", without="authorization"), 200, engine=AS_HELLO),
    Case("two-tokens", "which of them counts?", request(f"Authorization: Bearer {token(subject='evil')}"), 400, code="conflicting_credentials"),
    Case("token-twice", "twice the same is one", request(f"Authorization: Bearer {TOKEN}"), 200, 400, engine=AS_HELLO, engine_behind_nginx=()),
    Case("two-headers-two-tokens", "which of them counts?", request(f"x-api-key: {token(subject='evil')}"), 400, code="conflicting_credentials"),
    Case("bad-token-beside-a-good-one", "a good one does not heal a bad one", request("x-api-key: evil"), 400, code="conflicting_credentials"),
    Case("basic-beside-api-key", "likewise", request("Authorization: Basic ZXZpbDpldmls", f"x-api-key: {TOKEN}", without="authorization"), 401),
    Case("api-key", "as Anthropic's clients send it", request(f"x-api-key: {TOKEN}", without="authorization"), 200, engine=AS_HELLO),
    Case("api-key-bearer", "no scheme there", request(f"x-api-key: Bearer {TOKEN}", without="authorization"), 401),
    Case("token-in-the-query", "a query is logged everywhere", request(path=f"/v1/chat/completions?access_token={TOKEN}&api_key={TOKEN}", without="authorization"), 401),
    Case("token-in-the-body", "a body is no proof", request(without="authorization", body={**_BODY, "access_token": TOKEN, "api_key": TOKEN}), 401),
    Case("token-in-a-cookie", "nor is a cookie of another name", request(f"Cookie: access_token={TOKEN}; Authorization=Bearer {TOKEN}", without="authorization"), 401),
    Case("engine-key-guess", "the engine's key is not the gateway's", request("Authorization: Bearer EMPTY", without="authorization"), 401),
    # JWTs; tests/unit/gateway/auth has the whole corpus of them
    bearer("alg-none", _ALG, forged({"alg": "none"}, secret=None), code="wrong_algorithm"),
    bearer("alg-none-kid", _ALG, forged({"alg": "none", "kid": KID}, secret=None), code="wrong_algorithm"),
    bearer("alg-none-mixed-case", _ALG, forged({"alg": "nOnE", "kid": KID}, secret=None), code="wrong_algorithm"),
    bearer("alg-none-signed", _ALG, forged({"alg": "none", "kid": KID}), code="wrong_algorithm"),
    bearer("alg-hs512", _ALG, forged({"alg": "HS512", "kid": KID}), code="wrong_algorithm"),
    bearer("alg-rs256", "RSA's public key as HMAC's secret", forged({"alg": "RS256", "kid": KID}), code="wrong_algorithm"),
    bearer("alg-es256-zero", "ECDSA's psychic signature (CVE-2022-21449)", f"{forged({'alg': 'ES256', 'kid': KID}, secret=None)}{'A' * 86}", code="wrong_algorithm"),
    bearer("alg-missing", _ALG, forged({"kid": KID}), code="wrong_algorithm"),
    bearer("alg-list", _ALG, forged({"alg": ["HS256"], "kid": KID}), code="wrong_algorithm"),
    bearer("alg-twice", "which of them counts?", forged(f'{{"alg":"none","alg":"HS256","kid":"{KID}"}}'), code="token_malformed"),
    bearer("signature-empty", "no signature", f"{_HEAD}.{_CLAIM}.", code="bad_signature"),
    bearer("signature-missing", "two parts", f"{_HEAD}.{_CLAIM}"),
    bearer("signature-of-another-key", "another secret", forged(_HS, secret=b"x" * 32), code="bad_signature"),
    bearer("signature-of-an-empty-secret", "new-api took it", forged(_HS, secret=b""), code="bad_signature"),
    bearer("claims-exchanged", "a signature fits one text only", f"{_HEAD}.{forged(_HS, {'sub': 'admin'}).split('.')[1]}.{_SIGNATURE}", code="bad_signature"),
    bearer("four-parts", "a part too many", f"{TOKEN}.evil"),
    bearer("jwe", "five parts: encrypted tokens are not offered", f"{_HEAD}.a.b.c.d"),
    bearer("padding", "another spelling of the same bytes", f"{_HEAD}=.{_CLAIM}.{_SIGNATURE}"),
    bearer("line-end", "a character that decoders skip", f"{_HEAD}.{_CLAIM}.{_SIGNATURE[:9]}\t{_SIGNATURE[9:]}"),
    bearer("kid-unknown", _KEY, forged({"alg": "HS256", "kid": "evil"}), code="unknown_key"),
    bearer("kid-path", "a kid is no file name", forged({"alg": "HS256", "kid": "../../dev/null"}, secret=b""), code="unknown_key"),
    bearer("kid-sql", "a kid is no query", forged({"alg": "HS256", "kid": "' OR 1=1 --"}), code="unknown_key"),
    bearer("jku", _KEY, forged({**_HS, "jku": "http://169.254.169.254/keys"}), code="token_malformed"),
    bearer("x5u", _KEY, forged({**_HS, "x5u": "http://169.254.169.254/cert"}), code="token_malformed"),
    bearer("jwk", _KEY, forged({**_HS, "jwk": {"kty": "oct", "k": "AAAA"}}), code="token_malformed"),
    bearer("crit", "what is critical and not known is refused (PyJWT CVE-2026-32597)", forged({**_HS, "crit": ["evil"], "evil": 1}), code="token_malformed"),
    bearer("b64-false", "an unencoded payload", forged({**_HS, "b64": False, "crit": ["b64"]}), code="token_malformed"),
    bearer("expired", _CLAIMS, forged(_HS, {"exp": 1}), code="token_expired"),
    bearer("not-yet", _CLAIMS, forged(_HS, {"nbf": 4_000_000_000}), code="token_not_yet_valid"),
    bearer("for-ever", _CLAIMS, forged(_HS, {"exp": 99_999_999_999}), code="token_lifetime_too_long"),
    bearer("exp-missing", _CLAIMS, forged(_HS, {"exp": None}), code="token_malformed"),
    bearer("exp-text", _CLAIMS, forged(_HS, {"exp": "4000000000"}), code="token_malformed"),
    bearer("sub-missing", _CLAIMS, forged(_HS, {"sub": ""}), code="token_malformed"),
    bearer("sub-object", _CLAIMS, forged(_HS, {"sub": {"$ne": None}}), code="token_malformed"),
    bearer("plan-unknown", _CLAIMS, forged(_HS, {"plan": "evil"}), code="unknown_plan"),
    bearer("no-scope", "a token for the chat is none for the API", token(scopes=["chat"]), 403, "insufficient_scope"),
    Case("other-models", "models that are not the caller's do not exist", request(f"Authorization: Bearer {token(models=['llama-*'])}", without="authorization"), 404, code="model_not_found"),
    Case("other-models-alias", "an alias is no way around", request(f"Authorization: Bearer {token(models=['alias'])}", without="authorization", body={**_BODY, "model": "alias"}), 404, code="model_not_found"),
    Case("secret-is-not-a-token", "the secret itself", request(f"x-api-key: {SECRET.decode()}", without="authorization"), 401),
    Case("error-of-messages", "errors have the shape of the API that was called", request(path=MESSAGES, without="authorization"), 401),
    Case("usage-of-others", "one's own usage, whatever is asked", get("/v1/usage?subject=evil&since=2026-01-01"), 200),
    Case("usage-sql", "a day is no query", get("/v1/usage?since=2026-01-01'%20OR%201=1--"), 400),
    Case("claims-nested-deep", "a bomb among the claims", request("Authorization: Bearer " + forged(_HS, {"x": json.loads("[" * 200 + "]" * 200)}), without="authorization"), 200, engine=AS_HELLO),
]
