"""The conditions a rule can test. A new one is one function in a file here, imported below.

Each kind is registered with the shape of its value, so that configuration, linter and the generated
reference know it without a second list.
"""

from router_service.routing.conditions import header, request, text
from router_service.routing.conditions.registry import CannotTell, Condition, Kind, kinds, make

__all__ = ["CannotTell", "Condition", "Kind", "header", "kinds", "make", "request", "text"]
