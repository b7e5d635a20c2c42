"""Prints the entries of a lock file that an image needs: `select_locked.py NAMES LOCK > requirements.lock`.

Standard library only: it runs inside image builds before anything is installed.
"""

import re
import sys
from pathlib import Path

ENTRY = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)(?:\[[^\]]*\])?==.*(?:\n[ \t]+.*)*", re.MULTILINE)


def select(names: str, lock: str) -> str:
    """Return the lock's entries, with their hashes, for the names of a list with one name a line.

    Raises:
        KeyError: names that the lock does not have.
    """
    wanted = [line.strip() for line in names.splitlines() if line.strip() and not line.startswith("#")]
    entries = {found["name"].lower(): found[0] for found in ENTRY.finditer(lock)}
    if missing := [name for name in wanted if name.lower() not in entries]:
        raise KeyError(", ".join(missing))
    return "\n".join(entries[name.lower()] for name in wanted) + "\n"


def main(names: str, lock: str) -> int:
    """Print the selected entries; exit 2 where the lock lacks a name."""
    try:
        print(select(Path(names).read_text(), Path(lock).read_text()), end="")
    except KeyError as error:
        print(f"{lock}: no entry for {error.args[0]} (named in {names})", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
