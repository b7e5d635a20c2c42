"""`compare A B`: two load runs' folders side by side, with 95 % confidence intervals.

Exit 0: compared. 2: a folder does not hold a finished run.
"""

import argparse
import json
import sys
from pathlib import Path

from pydantic import ValidationError

from measure.outcome import RequestRecord
from reports.comparison import as_table, compare
from reports.summary import BadRecords, read_records
from workloads import Slo


class BadRun(Exception):
    """A folder that holds no finished run; the message names the file and the remedy."""


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
    """Return the objective that a run was judged by.

    Raises:
        BadRun: its summary does not say.
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
