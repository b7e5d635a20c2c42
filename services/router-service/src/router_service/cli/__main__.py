"""Runs the commands of `cli` without the server's libraries, for images that do not have them."""

import argparse
import sys

from router_service.cli.commands import add_commands, run

if __name__ == "__main__":
    parser = argparse.ArgumentParser("router-service")
    add_commands(parser.add_subparsers(required=True, metavar="COMMAND"))
    sys.exit(run(parser.parse_args()))
