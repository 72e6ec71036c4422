"""`make bench`: the figures of docs/performance.md, as ratios within one run. `make bench ARGS=--quick` is shorter."""

from __future__ import annotations

import sys

from benchmarks import command_line, embedded, memory, over_http
from benchmarks.measure import report


def main() -> int:
    quick = "--quick" in sys.argv[1:]
    rows = embedded.rows(rounds=3 if quick else 7, batches=100 if quick else 300, large=500_000 if quick else 5_000_000)
    rows += over_http.rows(rounds=2 if quick else 5, seconds=2 if quick else 4)
    rows += command_line.rows(rounds=2 if quick else 3, records=200_000 if quick else 1_000_000)
    rows += embedded.open_time(0.25 if quick else 2)
    rows += memory.rows(read_bytes=100_000_000 if quick else 1_073_000_000)
    print(report(rows))
    return 1 if any(row.verdict == "SHORT" for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
