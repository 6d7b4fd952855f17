"""`python -m bench [NAME ...]`: run these benches, or all, and write RESULTS.md. With --tiny once, small, and write nothing.

A goal that is missed is a result like another. A bench that fails does not stop the others, and makes the exit status 1.
"""

import argparse
import importlib
import sys
import time
import traceback
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
    began = time.monotonic()
    found: list[Row | Curve] = []
    failed = []
    for name in options.names or NAMES:
        try:
            found += measured(name, TINY if options.tiny else FULL)
        except Exception:  # noqa: BLE001 - whatever it is, the others have something to say
            traceback.print_exc()
            failed.append(name)
    print(f"all: {time.monotonic() - began:.0f} s", flush=True)
    if failed:
        sys.exit(f"These failed: {', '.join(failed)}. RESULTS.md stays as it was.")
    if not options.tiny and not options.names:
        report.write(HERE, found)
    if not all(each.met for each in found):
        print("Goals were missed; RESULTS.md says what stands in the way.", file=sys.stderr)


if __name__ == "__main__":
    main()
