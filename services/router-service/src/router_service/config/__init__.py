"""Loads YAML into a typed configuration, or reports every mistake with file, line, value and remedy."""

from router_service.config.load import BadConfig, RouterConfig, load, redis_password
from router_service.config.model import Configuration

__all__ = ["BadConfig", "Configuration", "RouterConfig", "load", "redis_password"]
