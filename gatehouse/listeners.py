"""Whether the gateway's ports can be had, said by the keys and options that choose them."""

import socket

from gateway.config import GatewaySettings


def taken_ports(settings: GatewaySettings) -> list[str]:
    """Name the listeners that cannot be opened, before anything is started."""
    listeners = (
        ("gateway.port", settings.host, settings.port, "--port"),
        ("gateway.admin_port", settings.admin_host, settings.admin_port, "--admin-port"),
    )
    problems = []
    for name, host, number, flag in listeners:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, number))
            except OSError as error:
                problems.append(
                    f"{name}: {host}:{number} cannot be used ({error.strerror}); choose another with {flag}"
                )
    return problems
