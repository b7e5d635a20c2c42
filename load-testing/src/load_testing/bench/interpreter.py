"""Which Python runs the router, and whether it was compiled with profile-guided optimization; measures nothing.

Run as a program it describes the interpreter that runs it, as one JSON object.
"""

import ctypes
import json
import platform
import subprocess
import sysconfig
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

DICT_FUNCTIONS = (
    "PyDict_GetItem",
    "PyDict_SetItem",
    "PyDict_Clear",
    "PyDict_Merge",
    "PyDict_Keys",
    "PyDict_Copy",
)
LIST_FUNCTIONS = (
    "PyList_Append",
    "PyList_Insert",
    "PyList_Reverse",
    "PyList_Sort",
    "PyList_AsTuple",
    "PyList_GetItem",
)


def described(python: Path) -> dict[str, Any]:
    """Return what the interpreter ``python`` reports about itself."""
    output = subprocess.run([str(python), __file__], check=True, capture_output=True).stdout
    found: dict[str, Any] = json.loads(output)
    return found


def flags_tell(variables: Mapping[str, Any]) -> bool:
    """Return whether the build's flags name the optimization; Debian's build has it without naming it."""
    flags = " ".join(str(variables.get(name) or "") for name in ("PY_CFLAGS_NODIST", "PY_CORE_CFLAGS"))
    return "-fprofile-use" in flags or "--enable-optimizations" in str(variables.get("CONFIG_ARGS"))


def interleaved(some: Collection[int], others: Collection[int]) -> bool:
    """Return whether the functions of two source files are interleaved in memory.

    A compiler keeps the functions of a file together, unless a profile marks hot functions: then the linker groups the
    hot functions of all files, and the cold ones.
    """
    return min(some) < max(others) and min(others) < max(some)


def _layout_tells() -> bool | None:
    """None where the interpreter's functions cannot be found."""
    try:
        some, others = (
            [ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value or 0 for name in names]
            for names in (DICT_FUNCTIONS, LIST_FUNCTIONS)
        )
    except AttributeError:
        return None
    return interleaved(some, others)


def description() -> dict[str, Any]:
    """Describe the interpreter that runs this; ``profile_guided`` is None if it is unknown."""
    named = flags_tell(sysconfig.get_config_vars())
    return {
        "implementation": platform.python_implementation(),
        "version": platform.python_version(),
        "compiler": platform.python_compiler(),
        "profile_guided": named or _layout_tells(),
        "known_from": "its build flags" if named else "the order of its functions",
    }


def sentence(found: Mapping[str, Any]) -> str:
    """Return the description as a sentence for the report."""
    how = {True: "with", False: "without", None: "perhaps with"}[found["profile_guided"]]
    return (
        f"{found['implementation']} {found['version']} ({found['compiler']}), compiled {how} profile-guided optimization "
        f"(from {found['known_from']})"
    )


if __name__ == "__main__":
    print(json.dumps(description()))
