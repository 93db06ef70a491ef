"""A certified OpenID provider (npm's oidc-provider) as a process, and a browser that can sign in there."""

import contextlib
import fcntl
import json
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, CookieJar
from yarl import URL

from tests.support.needs import missing

FOLDER = Path(__file__).with_name("provider")
CLIENT_SECRET = "client-secret-of-the-tests-0123456789"
PUBLIC_URL = "https://chat.example"
PEOPLE: dict[str, dict[str, Any]] = {
    "ada": {"name": "Ada Lovelace", "preferred_username": "ada", "groups": ["staff", "ml-team"]},
    "bob": {"name": "Bob", "preferred_username": "bob", "groups": ["staff"]},
    "eve": {},
}


def installed() -> None:
    """Install the provider as its lock says, once; without npm the test is skipped, and fails in CI."""
    if shutil.which("npm") is None:
        missing("npm")
    folder = os.open(FOLDER, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)  # tests may run in several processes
        if not (FOLDER / "node_modules" / "oidc-provider").is_dir():
            subprocess.run(["npm", "ci", "--silent"], cwd=FOLDER, check=True, timeout=300, capture_output=True)
    finally:
        os.close(folder)


@contextlib.contextmanager
def oidc_provider(*, public: bool = False, id_token_claims: bool = True) -> Iterator[str]:
    """A provider that runs; its address."""
    installed()
    client: dict[str, Any] = {
        "client_id": "gatehouse",
        "redirect_uris": [f"{PUBLIC_URL}/auth/sso/corp/callback"],
        "response_types": ["code"],
        "grant_types": ["authorization_code"],
    }
    client |= {"token_endpoint_auth_method": "none"} if public else {"client_secret": CLIENT_SECRET}
    settings = {"client": client, "people": PEOPLE, "idTokenClaims": id_token_claims}
    process = subprocess.Popen(
        ["node", FOLDER / "server.mjs", json.dumps(settings)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        yield json.loads(process.stdout.readline())["issuer"]
    finally:
        process.stdin.close()
        process.wait(30)
        process.stdout.close()


@dataclass
class Arrived:
    """Where the browser ended: a status, a location, and the cookies it holds for the gateway."""

    status: int
    location: str
    cookies: dict[str, str]

    @property
    def session(self) -> str | None:
        """The chat session, if there is one."""
        return self.cookies.get("__Host-session") or None


class Browser:
    """One browser: cookies for the provider by its jar, those for the gateway by hand, for its public name is a fiction."""

    def __init__(self, gateway_url: str) -> None:
        self.gateway_url = gateway_url
        self.cookies: dict[str, str] = {}
        self.http = ClientSession(cookie_jar=CookieJar(unsafe=True))

    async def gateway(self, path: str) -> Arrived:
        """GET from the gateway, as a top-level navigation."""
        cookie = "; ".join(f"{name}={value}" for name, value in self.cookies.items() if value)
        headers = {"Cookie": cookie} if cookie else {}
        async with self.http.get(self.gateway_url + path, headers=headers, allow_redirects=False) as answer:
            for field in answer.headers.getall("Set-Cookie", ()):
                name, _, value = field.partition(";")[0].partition("=")
                self.cookies[name] = value.strip('"')
            return Arrived(answer.status, answer.headers.get("Location", ""), dict(self.cookies))

    async def at_provider(self, url: str, name: str, *, consent: bool = True) -> str:
        """Sign in there and agree; the address at the gateway that the provider sends the browser to."""
        while not url.startswith(PUBLIC_URL):
            async with self.http.get(URL(url, encoded=True), allow_redirects=False) as answer:
                page = await answer.text()
                if answer.status in {302, 303}:
                    url = str(URL(url, encoded=True).join(URL(answer.headers["Location"], encoded=True)))
                    continue
                assert answer.status == 200, page
            form = (
                {"prompt": "login", "login": name, "password": "any"}
                if 'name="login"' in page
                else {"prompt": "consent"}
            )
            if form["prompt"] == "consent" and not consent:
                url = re.findall(r'href="([^"]*abort[^"]*)"', page)[0]
                continue
            async with self.http.post(URL(url, encoded=True), data=form, allow_redirects=False) as answer:
                assert answer.status in {302, 303}, await answer.text()
                url = str(URL(url, encoded=True).join(URL(answer.headers["Location"], encoded=True)))
        return url.removeprefix(PUBLIC_URL)

    async def sign_in(self, name: str) -> Arrived:
        """The whole way, there and back."""
        begun = await self.gateway("/auth/sso/corp")
        assert begun.status == 303, begun
        return await self.gateway(await self.at_provider(begun.location, name))


@contextlib.asynccontextmanager
async def browser(gateway_url: str) -> AsyncIterator[Browser]:
    """A browser with no cookies."""
    opened = Browser(gateway_url)
    try:
        yield opened
    finally:
        await opened.http.close()
