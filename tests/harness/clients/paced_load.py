"""Load generator in a separate process that sends at a constant rate, independent of the responses. Prints
one JSON object at the end: the number of responses of each status. Fairness tests use it for other clients.
"""

import argparse
import asyncio
import collections
import json
import time


async def _ask(port: int, request: bytes, statuses: "collections.Counter[str]") -> None:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        line = await reader.readline()
        statuses[line.split(b" ")[1].decode() if b" " in line else "none"] += 1
        while await reader.read(65536):
            pass
        writer.close()
    except OSError as error:
        statuses[type(error).__name__] += 1


async def _run(options: argparse.Namespace) -> "collections.Counter[str]":
    body = options.body.encode()
    head = (
        f"POST {options.path} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {options.key}\r\n"
        f"content-type: application/json\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    statuses: collections.Counter[str] = collections.Counter()
    tasks: set[asyncio.Task[None]] = set()
    started = due = time.monotonic()
    while time.monotonic() - started < options.seconds:
        for _ in range(options.burst):
            tasks.add(asyncio.create_task(_ask(options.port, head.encode() + body, statuses)))
        due += options.burst / options.rate
        await asyncio.sleep(max(0.0, due - time.monotonic()))
    await asyncio.gather(*tasks)
    return statuses


def main() -> None:
    """Run the load that the command line describes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--body", required=True)
    parser.add_argument("--path", default="/v1/chat/completions")
    parser.add_argument("--rate", type=float, required=True, help="requests per second")
    parser.add_argument("--burst", type=int, default=1, help="requests sent together")
    parser.add_argument("--seconds", type=float, required=True)
    print(json.dumps(asyncio.run(_run(parser.parse_args()))))


if __name__ == "__main__":
    main()
