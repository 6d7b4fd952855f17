"""`python -m bench [NAME ...]`: run these benches, or all, and write RESULTS.md. With --tiny once, small, and write nothing."""

import argparse
import importlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from bench import report
from bench.result import FULL, TINY, Curve, Row, Size

HERE = Path(__file__).parent
NAMES = ("health", "uncached", "logline", "latency", "footprint", "scale", "outbox", "growth")


def measured(name: str, size: Size) -> Iterator[Row | Curve]:
    """What one bench yields, said as it comes."""
    began = time.monotonic()
    for each in importlib.import_module(f"bench.{name}").bench(size):
        print(report.line(each), flush=True)
        yield each
    print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*NAMES, []], metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--tiny", action="store_true", help="once, small, and write nothing")
    options = parser.parse_args()
    size = TINY if options.tiny else FULL
    found = [each for name in options.names or NAMES for each in measured(name, size)]
    if not options.tiny and not options.names:
        report.write(HERE, found)
    if not all(each.met for each in found):
        print("Goals were missed; RESULTS.md says what stands in the way.", file=sys.stderr)


if __name__ == "__main__":
    main()
