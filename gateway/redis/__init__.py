"""The way to Redis or Valkey: where it is (address), and one connection that everybody shares (link)."""

from gateway.redis.address import Address
from gateway.redis.link import Link, RedisAway

__all__ = ["Address", "Link", "RedisAway"]
