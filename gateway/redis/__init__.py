"""The way to Redis or Valkey: where it is (address), one connection that many share (link), and one that comes back by
itself (lasting).
"""

from gateway.redis.address import Address
from gateway.redis.lasting import LastingLink, Script
from gateway.redis.link import Link, RedisAway

__all__ = ["Address", "LastingLink", "Link", "RedisAway", "Script"]
