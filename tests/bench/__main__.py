"""`python -m tests.bench`: measure, print a table, never fail for a number."""

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.bench import delta, history, transfer
from tests.bench.results import Report, write_json
from tests.bench.world import World, bench_world, missing_room
from tests.large.size import bytes_of

BENCHMARKS: Mapping[str, Callable[[World], Report]] = {
    "transfer": transfer.run,
    "delta": delta.run,
    "history": history.run,
}
"""A further one is a module with `run(world) -> Report`, and a line here."""


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"all, or of: {', '.join(BENCHMARKS)}")
    parser.add_argument(
        "--size", type=bytes_of, default=bytes_of("1G"), help="of the large file (default 1G)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="of which the median is taken (default 3)")
    parser.add_argument(
        "--cold", action="store_true", help="drop the source from the page cache before a run"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there, too")
    given = parser.parse_args(arguments)
    unknown = set(given.names) - set(BENCHMARKS)
    if unknown:
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}")
    return given


def main(arguments: list[str]) -> int:
    """Run the benchmarks. 0: measured; 2: there is no room."""
    given = parse(arguments)
    missing = missing_room(given.size, given.rounds * transfer.COPIES + delta.COPIES)
    if missing is not None:
        print(missing, file=sys.stderr)
        return 2
    found = []
    with bench_world(rounds=given.rounds, size=given.size, cold=given.cold) as world:
        for name in given.names or BENCHMARKS:
            print(f"{name}:", flush=True)
            found.append(BENCHMARKS[name](world))
    for results in found:
        print("", *results.notes, "", results.table(), sep="\n")
    if given.json is not None:
        write_json(given.json, found)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
