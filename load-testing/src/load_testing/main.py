"""The one command of load testing: `load-testing NAME ...`; imports a command's module only to run it."""

import importlib
import sys

COMMANDS = {
    "run": ("load_testing.run", "send one workload to one target and report (`make load`)"),
    "capacity": (
        "load_testing.capacity",
        "find the highest rate that keeps the objectives (`make capacity`)",
    ),
    "from-records": ("load_testing.from_records", "write a workload from the router's decision records"),
    "compare": ("load_testing.compare", "compare two runs, with intervals"),
    "bench": ("load_testing.bench.run", "measure the router's own cost next to other routers (`make bench`)"),
    "plan": ("load_testing.capacity_plan", "print what a fleet needs besides its GPUs"),
    "simulate-fleet": ("load_testing.fleet_simulation", "check the plan by discrete-event simulation"),
    "routing-pays": ("load_testing.routing_pays", "compare policies on the two engines of the local stack"),
    "unit-costs": ("load_testing.unit_costs", "measure CPU per request of every part of the local stack"),
}


def main(words: list[str] | None = None) -> int:
    """Run one command and return its exit code; 2 for an unknown one."""
    name, *arguments = (sys.argv[1:] if words is None else words) or ["--help"]
    if name not in COMMANDS:
        known = "\n".join(f"  {each:15} {what}" for each, (_, what) in COMMANDS.items())
        print(f"usage: load-testing COMMAND ...\n\ncommands:\n{known}", file=sys.stderr)
        return 0 if name in ("-h", "--help") else 2
    return int(importlib.import_module(COMMANDS[name][0]).main(arguments))


if __name__ == "__main__":
    sys.exit(main())
