"""Where Redis is, and how to get a connection to it: dialling, TLS and authentication are redis-py's.

| URL | leads to |
|---|---|
| `redis://[user:password@]host[:port][/db]` | one server, or Valkey (`valkey://`); `rediss://`, `valkeys://` with TLS |
| `redis://host1:port1,host2:port2` | nodes of a cluster, or a primary and its replicas: redirections are followed |
| `unix:///path/redis.sock[?db=1]` | one server on this host |
| `redis+sentinel://host1:port1,host2:port2/service[/db]` | the primary that the sentinels name |

What redis-py's URLs take as query stands here, too: `ssl_ca_certs=/etc/ca.pem`, `ssl_cert_reqs=none` and so on
(https://redis.readthedocs.io/en/stable/connections.html#redis.connection.ConnectionPool.from_url); for the sentinels'
own account `sentinel_username` and `sentinel_password`.
"""

from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from redis.asyncio.connection import AbstractConnection, Connection, parse_url
from redis.asyncio.sentinel import Sentinel
from redis.exceptions import RedisError

CONNECT_SECONDS = 1.0  # nobody's request waits for it: while there is no connection, Redis counts as away
_PLAIN = {"redis": "redis", "rediss": "rediss", "valkey": "redis", "valkeys": "rediss"}


class Address:
    """One logical Redis. Remembers where the last connection led, and whom it was redirected to."""

    def __init__(self, url: str) -> None:
        """Raises ValueError, without repeating the URL, for it may hold a password."""
        scheme, _, how = urlsplit(url).scheme.partition("+")
        if how not in {"", "sentinel"} or (scheme not in _PLAIN and (scheme != "unix" or how)):
            raise ValueError("redis.url: must begin with redis://, rediss://, unix:// or redis+sentinel://")
        self._sentinels: Sentinel | None = None
        self._hosts: list[tuple[str, int]] = []
        self._service = ""
        try:
            self._options = self._parse(url, scheme, sentinel=bool(how))
            self._class = self._options.pop("connection_class", Connection)
            self._class(**self._options)  # misspelt options show now
        except (TypeError, RedisError) as error:
            raise ValueError(f"redis.url: {error}") from None

    def _parse(self, url: str, scheme: str, *, sentinel: bool) -> dict[str, Any]:
        parts = urlsplit(url)
        common = {"protocol": 2, "driver_info": None, "socket_timeout": CONNECT_SECONDS}
        common["socket_connect_timeout"] = CONNECT_SECONDS
        if scheme == "unix":
            return {**common, **parse_url(url)}
        account, _, hosts = parts.netloc.rpartition("@")
        self._hosts = [_host_and_port(host, 26379 if sentinel else 6379) for host in hosts.split(",")]
        query = dict(parse_qsl(parts.query))
        own = {key: query.pop(f"sentinel_{key}") for key in ("username", "password") if f"sentinel_{key}" in query}
        path = parts.path
        if sentinel:
            self._service, _, database = path.strip("/").partition("/")
            if not self._service:
                raise ValueError("redis.url: name the sentinels' service: redis+sentinel://HOST:PORT/SERVICE")
            path = f"/{database}"
        host, port = self._hosts[0]
        netloc = f"{account}@" if account else ""
        netloc += f"[{host}]:{port}" if ":" in host else f"{quote(host)}:{port}"
        options = {**common, **parse_url(f"{_PLAIN[scheme]}://{netloc}{path}?{urlencode(query)}")}
        if sentinel:
            encryption = {key: value for key, value in options.items() if key.startswith("ssl_")}
            if _PLAIN[scheme] == "rediss":
                encryption["ssl"] = True
            timeouts = {"socket_timeout": CONNECT_SECONDS, "socket_connect_timeout": CONNECT_SECONDS}
            self._sentinels = Sentinel(  # type: ignore[no-untyped-call]
                self._hosts, sentinel_kwargs={**timeouts, **encryption, **own}
            )
        return options

    async def dial(self) -> AbstractConnection:
        """A new connection, authenticated and ready. Raises OSError."""
        try:
            return await self._dialled()
        except RedisError as error:
            raise ConnectionError(str(error)) from error

    async def _dialled(self) -> AbstractConnection:
        if not self._hosts:
            return await self._connect()
        if self._sentinels is not None:
            try:
                host, port = await self._sentinels.discover_master(self._service)
            finally:  # they are asked once in a while: no connection is kept
                for each in self._sentinels.sentinels:
                    await each.aclose()
            return await self._connect(host=host, port=port)
        failure: Exception = OSError("no host")
        for host, port in self._hosts:
            try:
                return await self._connect(host=host, port=port)
            except (OSError, RedisError) as error:
                failure = error
        raise failure

    def redirect(self, reply: str) -> bool:
        """Take an error reply into account: `MOVED slot host:port` is followed; after READONLY comes another host.

        Says whether the next connection is known to lead to the right one.
        """
        word, *rest = reply.split()
        if word == "MOVED" and len(rest) == 2 and self._sentinels is None and self._hosts:
            host, _, port = rest[1].rpartition(":")
            target = (host or self._hosts[0][0], int(port))
            self._hosts = [target, *(each for each in self._hosts if each != target)]
            return True
        if word in {"READONLY", "CLUSTERDOWN", "LOADING", "MASTERDOWN"}:
            self._hosts = [*self._hosts[1:], *self._hosts[:1]]
        return False

    async def _connect(self, **where: Any) -> AbstractConnection:
        connection: AbstractConnection = self._class(**{**self._options, **where})
        await connection.connect()  # type: ignore[no-untyped-call]
        return connection


def _host_and_port(text: str, default: int) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError("redis.url: a host is missing")
    return parts.hostname, parts.port or default
