"""`python3 -m vllm.entrypoints.openai.api_server` for tests: translates vLLM's arguments for the engine
simulator.

An unknown option is an error, so that tests verify a pod's command line.
"""

import argparse
import sys
from pathlib import Path

import engine_simulator.main as simulator

FLAGS = ("--enable-per-request-metrics", "--enable-force-include-usage", "--enable-prompt-tokens-details",
         "--enable-request-id-headers",
         "--enforce-eager")  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--served-model-name", nargs="+", required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", required=True)
    parser.add_argument("--max-model-len", required=True)
    parser.add_argument("--max-num-seqs", required=True)
    parser.add_argument("--dtype")
    parser.add_argument("--shutdown-timeout", type=float, default=0.0)
    for flag in FLAGS:
        parser.add_argument(flag, action="store_true")
    options = parser.parse_args()
    if not any(options.model.iterdir()):
        print(f"{options.model}: no weights", file=sys.stderr)
        return 1
    names = [word for name in options.served_model_name for word in ("--served-model-name", name)]
    return simulator.main([
        "serve", "--host", options.host, "--port", options.port, "--model", options.served_model_name[0], *names,
        "--max-model-len", options.max_model_len, "--max-num-seqs", options.max_num_seqs,
    ])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
