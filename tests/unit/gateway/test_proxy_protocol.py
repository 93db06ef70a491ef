"""The PROXY protocol's header: what it says, how long it is, what is refused."""

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.proxy_protocol import SIGNATURE, Announcement, NotAnnouncedError, announcement

REST = b"GET / HTTP/1.1\r\n\r\n"


def binary(source: str, *, command: int = 0x21, more: bytes = b"", protocol: int = 1) -> bytes:
    address = ipaddress.ip_address(source)
    other = ipaddress.ip_address("192.0.2.1" if address.version == 4 else "2001:db8::1")
    body = address.packed + other.packed + struct.pack("!HH", 1234, 443) + more
    family = (1 if address.version == 4 else 2) << 4 | protocol
    return SIGNATURE + struct.pack("!BBH", command, family, len(body)) + body


@pytest.mark.parametrize(
    ("header", "address"),
    [
        (b"PROXY TCP4 203.0.113.7 192.0.2.1 56324 443\r\n", "203.0.113.7"),
        (b"PROXY TCP6 2001:db8::7 2001:db8::1 56324 443\r\n", "2001:db8::7"),
        (b"PROXY UNKNOWN\r\n", None),
        (b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", None),
        (binary("203.0.113.7"), "203.0.113.7"),
        (binary("2001:db8::7"), "2001:db8::7"),
        (binary("203.0.113.7", more=b"\x04\x00\x01x"), "203.0.113.7"),
        (binary("203.0.113.7", command=0x20), None),  # LOCAL: the proxy's own
        (binary("203.0.113.7", protocol=2), None),  # UDP
        (SIGNATURE + b"\x21\x00\x00\x00", None),
        (SIGNATURE + b"\x21\x31" + struct.pack("!H", 216) + b"\0" * 216, None),  # Unix sockets
    ],
)
def test_who_is_announced(header: bytes, address: str | None) -> None:
    """By both versions and both families; whatever follows is left; every beginning of it is merely not complete."""
    assert announcement(header + REST) == Announcement(address, len(header))
    assert [announcement(header[:end]) for end in range(len(header))] == [None] * len(header)


@pytest.mark.parametrize(
    "data",
    [
        REST,
        b"\x16\x03\x01\x02\x00",  # TLS
        b"PROXY TCP4 203.0.113.7 192.0.2.1 56324\r\n",
        b"PROXY TCP4 2001:db8::7 192.0.2.1 1 2\r\n",
        b"PROXY TCP4 203.0.113.7,1.2.3.4 192.0.2.1 1 2\r\n",
        b"PROXY TCP4 203.0.113.7 192.0.2.1 1 2\n",
        b"PROXY TCP4 \xff 192.0.2.1 1 2\r\n",
        b"PROXY UDP4 203.0.113.7 192.0.2.1 1 2\r\n",
        b"proxy TCP4 203.0.113.7 192.0.2.1 1 2\r\n",
        b"PROXY " + b"x" * 200,
        SIGNATURE + b"\x11\x11\x00\x0c" + b"\0" * 12,  # version 1 in version 2's clothes
        SIGNATURE + b"\x22\x11\x00\x0c" + b"\0" * 12,
        SIGNATURE + b"\x21\x11\x00\x04" + b"\0" * 4,
        SIGNATURE + b"\x21\x11\xff\xff",
    ],
)
def test_what_is_refused(data: bytes) -> None:
    """What is no header, or one that says something else than the protocol knows."""
    with pytest.raises(NotAnnouncedError):
        announcement(data)


@given(st.binary(max_size=300), st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", SIGNATURE, SIGNATURE + b"\x21\x11"]))
def test_nothing_else_can_happen(data: bytes, start: bytes) -> None:
    """Any bytes: a valid address within what was read, not complete, or refused."""
    try:
        found = announcement(start + data)
    except NotAnnouncedError:
        return
    if found is not None:
        assert 0 < found.size <= len(start + data)
        assert found.address is None or ipaddress.ip_address(found.address)
