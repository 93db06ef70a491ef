"""The caller's address behind proxies: what a trusted proxy wrote is believed, what a caller wrote is not."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.peers import client_address, network_of

NGINX, OTHER_PROXY, CALLER, FORGED = "127.0.0.1", "10.1.2.3", "203.0.113.7", "198.51.100.9"
TRUSTED = tuple(map(ipaddress.ip_network, ("127.0.0.1/32", "10.0.0.0/8", "::1/128")))

CASES: dict[str, tuple[str | None, list[str], str]] = {
    "no header": (NGINX, [], NGINX),
    "one proxy": (NGINX, [CALLER], CALLER),
    "two proxies": (NGINX, [f"{CALLER}, {OTHER_PROXY}"], CALLER),
    "two proxies, two lines": (NGINX, [CALLER, OTHER_PROXY], CALLER),
    "forged by the caller": (NGINX, [f"{FORGED}, {CALLER}"], CALLER),
    "forged, two proxies": (NGINX, [f"{FORGED}, {CALLER}, {OTHER_PROXY}"], CALLER),
    "forged in a line of its own": (NGINX, [FORGED, CALLER], CALLER),
    "forged as a trusted proxy": (NGINX, [f"{FORGED}, {NGINX}, {CALLER}"], CALLER),
    "forged, twenty of them": (NGINX, [", ".join([FORGED] * 20 + [CALLER])], CALLER),
    "a caller that is no proxy": (CALLER, [FORGED], CALLER),
    "a caller that claims to be local": (CALLER, [NGINX], CALLER),
    "all trusted: a request from the proxy's own host": (NGINX, [f"{OTHER_PROXY}, {NGINX}"], OTHER_PROXY),
    "with a port": (NGINX, [f"{CALLER}:4711"], CALLER),
    "IPv6": (NGINX, ["2001:db8::7"], "2001:db8::7"),
    "IPv6 in brackets": (NGINX, ["[2001:db8::7]:4711"], "2001:db8::7"),
    "IPv6 with a zone": (NGINX, ["fe80::1%eth0"], "fe80::1"),
    "IPv4 in IPv6's clothes": (NGINX, [f"::ffff:{CALLER}"], CALLER),
    "a peer in IPv6's clothes": (f"::ffff:{NGINX}", [CALLER], CALLER),
    "an IPv6 peer": ("::1", [CALLER], CALLER),
    "tabs and spaces": (NGINX, [f" \t{FORGED} ,\t{CALLER}\t "], CALLER),
    "unknown": (NGINX, ["unknown"], NGINX),
    "nonsense behind the last proxy": (NGINX, [f"{FORGED}, nonsense, {OTHER_PROXY}"], OTHER_PROXY),
    "empty": (NGINX, [""], NGINX),
    "commas": (NGINX, [",,,"], NGINX),
    "a number": (NGINX, ["2130706433"], NGINX),
    "an octal address": (NGINX, ["0177.0.0.1"], NGINX),
    "a name": (NGINX, ["localhost"], NGINX),
    "a network": (NGINX, ["203.0.113.0/24"], NGINX),
    "a Unix socket": (None, [f"{FORGED}, {CALLER}"], CALLER),
    "a Unix socket, no header": (None, [], ""),
}


@pytest.mark.parametrize("case", CASES)
def test_cases(case: str) -> None:
    """From the right, over trusted proxies, to the first other address; no further."""
    peer, forwarded, expected = CASES[case]
    assert client_address(peer, forwarded, TRUSTED) == expected


@pytest.mark.parametrize("case", CASES)
def test_without_trusted_proxies(case: str) -> None:
    """Without trusted proxies the header says nothing, but on a Unix socket: nobody but a proxy can connect there."""
    peer, forwarded, _ = CASES[case]
    assert client_address(peer, forwarded, ()) == (peer or (CALLER if forwarded else ""))


@given(st.lists(st.text(max_size=60), max_size=4), st.sampled_from([CALLER, "2001:db8::7"]))
def test_a_caller_cannot_choose(forged: list[str], caller: str) -> None:
    """Whatever a caller puts into the header, behind a proxy that appends it is known by its own address."""
    assert client_address(NGINX, [*forged, caller], TRUSTED) == caller
    assert client_address(NGINX, [", ".join([*forged, caller])], TRUSTED) == caller
    assert client_address(caller, forged, TRUSTED) == caller


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:0:1:aaaa::1", "2001:db8:0:1::/64"),
        ("2001:db8:0:1:bbbb::2", "2001:db8:0:1::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("unix:", "unix:"),
    ],
)
def test_one_subscriber_is_one_network(address: str, network: str) -> None:
    """One subscriber is one track: IPv6 by /64, mapped IPv4 as IPv4."""
    assert network_of(address) == network
