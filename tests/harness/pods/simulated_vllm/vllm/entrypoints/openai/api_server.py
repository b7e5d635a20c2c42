"""`python3 -m vllm.entrypoints.openai.api_server` of the tests: vLLM's arguments in, the engine simulator out.

An option it does not know is an error, so that a pod's command line is not taken on trust.
"""

import argparse
import sys
from pathlib import Path

import engine_simulator.main as simulator

FLAGS = ("--enable-per-request-metrics", "--enable-force-include-usage", "--enable-request-id-headers",
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
    simulator.LOOPBACK = options.host
    names = [word for name in options.served_model_name for word in ("--served-model-name", name)]
    return simulator.main([
        "serve", "--port", options.port, "--model", options.served_model_name[0], *names,
        "--max-model-len", options.max_model_len, "--max-num-seqs", options.max_num_seqs,
    ])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
