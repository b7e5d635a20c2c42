"""The conditions that a rule can test. To add one, write one function in a file here and import it below.

Each kind is registered with the type of its value. Configuration, linter and reference therefore need no second list.
"""

from router_service.routing.conditions import header, request, text
from router_service.routing.conditions.registry import CannotTell, Condition, Kind, kinds, make

__all__ = ["CannotTell", "Condition", "Kind", "header", "kinds", "make", "request", "text"]
