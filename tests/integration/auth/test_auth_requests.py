"""Credentials of requests, and the marks that a request resting on the cookie must carry."""

import pytest
from multidict import CIMultiDict

from tests.integration.auth.house import OWN_PAGE, House


async def test_bearer_and_api_key(house: House) -> None:
    """A token is accepted as bearer, in any case of the scheme, or as x-api-key; both may say the same."""
    token = house.token()
    for headers in (
        {"Authorization": f"Bearer {token}"},
        {"Authorization": f"bearer {token}"},
        {"Authorization": f"Bearer   {token}"},
        {"x-api-key": token},
        {"x-api-key": token, "Authorization": f"Bearer {token}"},
    ):
        answer = await house.request("POST", "/v1/who", headers=headers)
        assert (answer.status, answer.json["via"]) == (200, "bearer")


@pytest.mark.parametrize("first", ["Authorization", "x-api-key"])
async def test_contradicting_credentials(house: House, first: str) -> None:
    """Two different tokens are refused, wherever they stand: nobody guesses which was meant."""
    headers = CIMultiDict([(first, "Bearer a.b.c"), ("x-api-key", "d.e.f")])
    answer = await house.request("GET", "/v1/who", headers=headers)
    assert (answer.status, answer.code) == (400, "conflicting_credentials")


async def test_a_header_twice(house: House) -> None:
    """Two Authorization fields with different tokens are refused, by the parser or here."""
    headers = CIMultiDict([("Authorization", f"Bearer {house.token()}"), ("Authorization", "Bearer a.b.c")])
    answer = await house.request("GET", "/v1/who", headers=headers)
    assert answer.status == 400


@pytest.mark.parametrize("value", ["Basic YTpi", "Bearer", "Bearer ", "Token a.b.c", "", "Bearer a b"])
async def test_other_schemes(house: House, value: str) -> None:
    """What is not a bearer token is refused as malformed; a cookie beside it does not help."""
    browser = await house.signed_in()
    answer = await house.request("GET", "/v1/who", headers={**browser, "Authorization": value})
    assert (answer.status, answer.code) == (401, "token_malformed")
    assert answer.headers["WWW-Authenticate"] == 'Bearer error="invalid_token", error_description="token_malformed"'


async def test_a_bad_token_is_not_rescued_by_a_cookie(house: House) -> None:
    """A presented token counts alone: an expired one is refused although the browser is signed in."""
    browser = await house.signed_in()
    headers = {**browser, "Authorization": f"Bearer {house.token()[:-4]}AAAA"}
    assert (await house.request("GET", "/v1/who", headers=headers)).status == 401


async def test_scope(house: House) -> None:
    """403 names the missing scope."""
    headers = {"Authorization": f"Bearer {house.token(scopes=('chat',))}"}
    answer = await house.request("GET", "/v1/who", headers=headers)
    assert (answer.status, answer.code) == (403, "insufficient_scope")
    assert "`api`" in answer.json["error"]["message"]


JSON = "application/json"
SAME = "same-origin"
OK, CROSS, MEDIA = 200, 403, 415
CSRF = [
    # content type, Sec-Fetch-Site, Origin ({} is our own host), expected
    (JSON, SAME, None, OK),
    (JSON, "none", None, OK),
    (JSON, None, "http://{}", OK),
    (JSON, None, "https://{}", OK),
    (JSON, SAME, "http://{}", OK),
    (JSON, None, None, CROSS),
    (JSON, "cross-site", None, CROSS),
    (JSON, "same-site", None, CROSS),
    (JSON, "", None, CROSS),
    (JSON, "Same-Origin", None, CROSS),
    (JSON, "cross-site", "http://{}", CROSS),
    (JSON, None, "null", CROSS),
    (JSON, None, "", CROSS),
    (JSON, None, "http://evil.example", CROSS),
    (JSON, None, "http://{}.evil.example", CROSS),
    (JSON, None, "http://{}/", CROSS),
    (JSON, None, "ftp://{}", CROSS),
    (JSON, None, "http://127.0.0.1", CROSS),
    ("text/plain", SAME, "http://{}", MEDIA),
    ("application/x-www-form-urlencoded", SAME, None, MEDIA),
    ("multipart/form-data; boundary=x", SAME, None, MEDIA),
    ("application/json; charset=utf-8", SAME, None, OK),
    ("APPLICATION/JSON", SAME, None, OK),
    ("application/json+x", SAME, None, MEDIA),
    ("", SAME, None, MEDIA),
]


@pytest.mark.parametrize(("content_type", "site", "origin", "status"), CSRF)
async def test_csrf(house: House, content_type: str, site: str | None, origin: str | None, status: int) -> None:
    """What changes something on the strength of the cookie must come from our own page and be JSON."""
    headers = {"Cookie": (await house.login()).cookie, "Content-Type": content_type}
    if site is not None:
        headers["Sec-Fetch-Site"] = site
    if origin is not None:
        headers["Origin"] = origin.format(house.base.removeprefix("http://"))
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        assert (await house.request(method, "/v1/who", data=b"{}", headers=headers)).status == status
    logout = await house.request("POST", "/auth/logout", data=b"{}", headers=headers)
    assert logout.status == (204 if status == OK else status)
    assert ("Set-Cookie" in logout.headers) == (status == OK)


@pytest.mark.parametrize(("scheme", "status"), [("https", OK), ("http", CROSS)])
async def test_a_page_of_plain_http_is_not_our_own(house: House, scheme: str, status: int) -> None:
    """Away from loopback an `Origin` of plain http is anybody's who sits on the line, also where the host is ours."""
    cookie = (await house.login()).cookie
    headers = {
        "Host": "chat.example.com",
        "Cookie": cookie,
        "Content-Type": JSON,
        "Origin": f"{scheme}://chat.example.com",
    }
    assert (await house.request("POST", "/v1/who", data=b"{}", headers=headers)).status == status


@pytest.mark.parametrize("content_type", [None, "application/x-www-form-urlencoded", "text/plain"])
async def test_an_empty_body_must_be_json_too(house: House, content_type: str | None) -> None:
    """A request without a body says that it is JSON all the same: a foreign form can be empty."""
    headers = await house.signed_in()
    if content_type is not None:
        headers["Content-Type"] = content_type
    answer = await house.request("POST", "/auth/logout", headers=headers, skip_auto_headers=["Content-Type"])
    assert answer.status == 415
    assert (await house.request("GET", "/auth/session", headers=headers)).status == 200


async def test_reading_needs_no_mark(house: House) -> None:
    """GET and HEAD change nothing and need no mark; the answer is unreadable to other sites anyway."""
    cookie = {"Cookie": (await house.login()).cookie, "Sec-Fetch-Site": "cross-site"}
    assert (await house.request("GET", "/v1/who", headers=cookie)).status == 200
    assert (await house.request("HEAD", "/v1/who", headers=cookie)).status == 200


async def test_tokens_need_no_mark(house: House) -> None:
    """A token is not sent by a browser on its own: no CSRF, no marks, any content type."""
    headers = {"Authorization": f"Bearer {house.token()}", "Origin": "http://evil.example"}
    assert (await house.request("POST", "/v1/who", data=b"x", headers=headers)).status == 200


@pytest.mark.parametrize(
    ("marks", "status"),
    [
        ({}, 200),
        (OWN_PAGE, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
async def test_login_csrf(house: House, marks: dict[str, str], status: int) -> None:
    """No other site can sign a browser in; a program without a browser's marks can sign itself in."""
    body = {"username": "ada", "password": "correct horse battery staple"}
    assert (await house.request("POST", "/auth/login", json=body, headers=marks)).status == status
