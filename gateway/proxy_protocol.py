"""Pure: the PROXY protocol, by which a proxy that knows no HTTP says at a connection's start whose it is.

Versions 1 (text) and 2 (binary) of https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt. Who may use it is not
decided here: anybody else could give himself any address.
"""

import ipaddress
import re
import struct
from typing import NamedTuple

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_LINE = re.compile(rb"PROXY (?:TCP([46]) (\S+) (\S+) (\d{1,5}) (\d{1,5})|UNKNOWN[^\r\n]*)\r\n")
_LONGEST_LINE = 107  # by the specification
_LONGEST_BLOCK = 4096  # addresses take 36 bytes at most; the rest are extensions
_ADDRESSES = {0x1: (4, ipaddress.IPv4Address), 0x2: (16, ipaddress.IPv6Address)}  # by family: size, type
_STREAM = 0x1


class Announcement(NamedTuple):
    """Whose connection it is (None: the proxy's own, such as a health check), and how many bytes said so."""

    address: str | None
    size: int


class NotAnnouncedError(Exception):
    """The connection does not begin as the protocol wants it."""


def announcement(data: bytes) -> Announcement | None:
    """Read the header at the start of a connection; None while it is not complete. Raises NotAnnouncedError."""
    if data.startswith(SIGNATURE):
        return _binary(data)
    if SIGNATURE.startswith(data[: len(SIGNATURE)]):
        return None
    if not b"PROXY ".startswith(data[:6]):
        raise NotAnnouncedError("it does not begin with a PROXY header")
    end = data.find(b"\n", 0, _LONGEST_LINE) + 1
    if not end:
        if len(data) >= _LONGEST_LINE:
            raise NotAnnouncedError("its PROXY line has no end")
        return None
    line = _LINE.fullmatch(data[:end])
    if line is None:
        raise NotAnnouncedError("its PROXY line cannot be read")
    version, source, *_ = line.groups()
    if version is None:
        return Announcement(None, end)
    try:
        address = ipaddress.ip_address(source.decode("ascii"))
    except ValueError:
        address = None
    if address is None or address.version != int(version):
        raise NotAnnouncedError("its PROXY line has no such address")
    return Announcement(str(address), end)


def _binary(data: bytes) -> Announcement | None:
    start = len(SIGNATURE) + 4
    if len(data) < start:
        return None
    command, family, size = struct.unpack_from("!BBH", data, len(SIGNATURE))
    if command >> 4 != 2 or command & 0xF > 1:
        raise NotAnnouncedError("its PROXY header has an unknown version or command")
    if size > _LONGEST_BLOCK:
        raise NotAnnouncedError("its PROXY header is too long")
    if len(data) < start + size:
        return None
    known = _ADDRESSES.get(family >> 4)
    if command & 0xF == 0 or known is None or family & 0xF != _STREAM:  # LOCAL, or no address that we could use
        return Announcement(None, start + size)
    width, kind = known
    if size < 2 * width + 4:
        raise NotAnnouncedError("its PROXY header is too short for its addresses")
    return Announcement(str(kind(data[start : start + width])), start + size)
