"""Request fields that the simulator does not support: it returns 501 with the field instead of ignoring it."""

from collections.abc import Callable
from typing import Any

from engine_simulator.requests import Refused

Check = Callable[[dict[str, Any]], bool]


def _tools(body: dict[str, Any]) -> bool:
    return bool(body.get("tools")) and not _chooses_none(body)


def _chooses_none(body: dict[str, Any]) -> bool:
    choice = body.get("tool_choice")
    return choice == "none" or (isinstance(choice, dict) and choice.get("type") == "none")


def _forced_tool(body: dict[str, Any]) -> bool:
    choice = body.get("tool_choice")
    kind = choice.get("type") if isinstance(choice, dict) else choice
    return kind not in (None, "auto", "none")


def _structured(value: Any) -> bool:
    return isinstance(value, dict) and value.get("type", "text") != "text"


CHECKS: dict[str, Check] = {
    "tool_choice": _forced_tool,
    "tools": _tools,
    "response_format": lambda body: _structured(body.get("response_format")),
    "text.format": lambda body: (
        isinstance(body.get("text"), dict) and _structured(body["text"].get("format"))
    ),
    "output_config.format": lambda body: (
        isinstance(body.get("output_config"), dict) and _structured(body["output_config"].get("format"))
    ),
    "structured_outputs": lambda body: bool(body.get("structured_outputs")),
}
"""Field -> whether this body needs it. ``tools`` with ``tool_choice: none`` has no effect and is accepted."""


def refuse_unsupported(body: dict[str, Any]) -> None:
    """Refuse a request with an unsupported field.

    Raises:
        Refused: 501 with the first such field as ``param``.
    """
    for field, asks_for in CHECKS.items():
        if asks_for(body):
            raise Refused(
                501,
                f"{field}: the engine simulator does not support it; use a real engine",
                field,
                "NotImplementedError",
            )
