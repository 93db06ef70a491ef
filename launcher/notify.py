"""systemd's readiness and watchdog protocol, sd_notify(3). Without $NOTIFY_SOCKET it does nothing."""

import contextlib
import os
import socket

_SEND_SECONDS = 1.0


def notify(**fields: str) -> None:
    """Send fields such as READY="1" or STATUS="loading 3/10"; a systemd that does not listen is no error."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    message = "\n".join(f"{name}={value}" for name, value in fields.items()).encode()
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.settimeout(_SEND_SECONDS)  # a systemd that does not read must not stop the launcher
        channel.connect("\0" + address[1:] if address.startswith("@") else address)
        channel.send(message)


def watchdog_seconds() -> float | None:
    """How often systemd wants WATCHDOG=1: half of what it waits for; None when it does not."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 2e6 if microseconds.isdigit() else None
