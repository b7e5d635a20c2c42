"""`compare A B`: two load runs' folders side by side, with 95 % confidence intervals."""

import argparse
import json
import sys
from pathlib import Path

from reports.comparison import as_table, compare
from reports.summary import read_records
from workloads import Slo


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="compare", description=(__doc__ or "").strip())
    parser.add_argument("a", type=Path, help="folder of a run (holds summary.json and requests.jsonl)")
    parser.add_argument("b", type=Path, help="folder of the run to compare with it")
    options = parser.parse_args(arguments)
    for folder in (options.a, options.b):
        for name in ("summary.json", "requests.jsonl"):
            if not (folder / name).is_file():
                print(
                    f"compare: {folder / name} does not exist; give the folder of a finished run",
                    file=sys.stderr,
                )
                return 2
    slo = Slo.model_validate(json.loads((options.a / "summary.json").read_text())["slo"])
    print(
        as_table(
            compare(
                read_records(options.a / "requests.jsonl"), read_records(options.b / "requests.jsonl"), slo
            )
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
