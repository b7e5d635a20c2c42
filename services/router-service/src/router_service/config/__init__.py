"""Loads YAML into a typed configuration, or reports every mistake with file, line, value and remedy."""

from router_service.config.load import BadConfig, RouterConfig, load
from router_service.config.model import Configuration
from router_service.config.redis_access import redis_login

__all__ = ["BadConfig", "Configuration", "RouterConfig", "load", "redis_login"]
