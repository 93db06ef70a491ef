"""Connections of clients: how many there may be (register), how long each may keep us waiting (client), and what
serves them (runner). aiohttp has deadlines for idle connections only.
"""

from gateway.connections.client import whole_body
from gateway.connections.register import Connections
from gateway.connections.runner import ClientRunner

__all__ = ["ClientRunner", "Connections", "whole_body"]
