"""Who is at the other end? Pure: the peer's address and `X-Forwarded-For`, believed as far as trusted proxies wrote it.

A peer without an address is one on a Unix socket, where only the proxy's group may connect: it counts as a trusted one.

Each proxy adds the address of its own peer on the right. So the list is read from the right, over the trusted proxies;
the first other address is the caller, and whatever stands to its left the caller may have made up. Never the leftmost:
https://adam-p.ca/blog/2022/03/x-forwarded-for/
"""

import ipaddress
from collections.abc import Iterable

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def client_address(peer: str | None, forwarded: Iterable[str], trusted: Iterable[Network]) -> str:
    """The caller's address: the peer, or the rightmost untrusted one of `X-Forwarded-For` behind trusted proxies.

    `forwarded` are the header's lines in their order; several are one list (RFC 9110, section 5.3). What is no address
    ends the list: the proxy that wrote it is then the last one known.
    """
    networks = tuple(trusted)
    known = _parsed(peer or "")
    if peer and (known is None or not _within(known, networks)):
        return peer
    for entry in reversed([part.strip(" \t") for line in forwarded for part in line.split(",")]):
        address = _parsed(entry)
        if address is None:
            break
        known = address
        if not _within(address, networks):
            break
    return str(known) if known is not None else peer or ""


def is_trusted(peer: str, trusted: Iterable[Network]) -> bool:
    """Whether a peer is one of the trusted proxies."""
    address = _parsed(peer)
    return address is not None and _within(address, trusted)


def network_of(address: str) -> str:
    """What one subscriber holds: the address, or for IPv6 its /64 (RFC 6177), where addresses are free to change."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:64]
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ipaddress.ip_network((ip, 64), strict=False))


def _within(address: _Address, networks: Iterable[Network]) -> bool:
    return any(address.version == network.version and address in network for network in networks)


def _parsed(text: str) -> _Address | None:
    """An address as proxies write it: plain, with a port (`1.2.3.4:5`, `[::1]:5`), or an IPv4 one in IPv6's clothes."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
