"""The way to Redis or Valkey: where it is (address), one connection that many share (link), and one that comes back by
itself (lasting).

redis-py is imported by `address` alone, and that by who has a Redis.
"""

from gateway.redis.lasting import LastingLink, Script
from gateway.redis.link import Link, RedisAway

__all__ = ["LastingLink", "Link", "RedisAway", "Script"]
