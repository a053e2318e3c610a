"""Jobs in a Redis server."""

from neoq.redis.backend import RedisBackend

__all__ = ["RedisBackend"]
