"""`compare A B`: compares the folders of two load runs, with 95 % confidence intervals.

Exit 0: compared. 2: a folder does not hold a finished run.
"""

import argparse
import json
import sys
from pathlib import Path

from pydantic import ValidationError

from load_testing.measure.outcome import RequestRecord
from load_testing.reports.comparison import as_table, compare
from load_testing.reports.summary import BadRecords, read_records
from load_testing.workloads import Slo


class BadRun(Exception):
    """The folder contains no finished run; the message names the file and the remedy."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="compare", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("a", type=Path, help="folder of a run (holds summary.json and requests.jsonl)")
    parser.add_argument("b", type=Path, help="folder of the run to compare with it")
    options = parser.parse_args(arguments)
    try:
        slo = read_slo(options.a)
        differences = compare(_records(options.a), _records(options.b), slo)
    except (BadRun, BadRecords) as problem:
        print(f"compare: {problem}", file=sys.stderr)
        return 2
    print(as_table(differences))
    return 0


def read_slo(folder: Path) -> Slo:
    """Return the objective of a run.

    Raises:
        BadRun: its summary has no objective.
    """
    path = folder / "summary.json"
    remedy = "give the folder of a finished run of `make load`"
    try:
        return Slo.model_validate(json.loads(path.read_text())["slo"])
    except OSError as error:
        raise BadRun(f"{path} cannot be read ({error.strerror}); {remedy}") from None
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise BadRun(f"{path} has no `slo` to compare by ({type(error).__name__}); {remedy}") from None


def _records(folder: Path) -> list[RequestRecord]:
    path = folder / "requests.jsonl"
    records = read_records(path)
    if not records:
        raise BadRun(f"{path} holds no request; give the folder of a finished run of `make load`")
    return records


if __name__ == "__main__":
    sys.exit(main())
