"""`make bench`: FlashQ side by side with its peers and with the limits of this machine, as ratios within one run."""

from __future__ import annotations

import argparse
import shlex
import signal
import subprocess
import sys
import traceback
from datetime import UTC, datetime

from benchmarks import page
from benchmarks.families import FAMILIES, QUICK_FAMILIES
from benchmarks.machine import facts
from benchmarks.measure import FULL, NOISE_BOUND, QUICK, Row
from benchmarks.report import Run, earlier, history, save, table


def main() -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that servers are stopped, and rows kept
    asked = _arguments()
    wanted = asked.only.split(",") if asked.only else QUICK_FAMILIES if asked.quick else list(FAMILIES)
    families = {name: rows for name, rows in FAMILIES.items() if any(f"{name}/".startswith(f"{w}/") for w in wanted)}
    if not families:
        print(
            f"No rows are called {asked.only}; nothing was measured. There are {', '.join(FAMILIES)}.", file=sys.stderr
        )
        return 2
    before = earlier(history())
    run = Run(datetime.now(UTC), shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]), facts(), [])
    failed = []
    for name, rows in families.items():
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        try:
            for row in rows(QUICK if asked.quick else FULL):
                row.family = name
                run.rows.append(row)
        except (RuntimeError, OSError, subprocess.SubprocessError):
            failed.append(name)
            traceback.print_exc()
        except KeyboardInterrupt:
            failed.append(f"{name} and those after it, interrupted")
            break
    print(table(run.rows, before))
    if asked.keep:
        print(f"Kept in {save(run)}.", file=sys.stderr)
        page.write()
        print(f"Written: {page.PAGE}, {page.PICTURES}/", file=sys.stderr)
    if failed:
        print(f"FAILED, see above: {', '.join(failed)}", file=sys.stderr)
        return 4
    return _outcome(run.rows)


def _outcome(rows: list[Row]) -> int:
    """0; 1 if a target was missed; 3 if the machine was too noisy to say."""
    verdicts = [comparison.verdict for row in rows for comparison in row.comparisons]
    noisy, short = verdicts.count("NOISY"), verdicts.count("SHORT")
    if short:
        print(f"{short} of {len(verdicts)} comparisons fall short of their target.", file=sys.stderr)
    if noisy:
        print(
            f"{noisy} of {len(verdicts)} comparisons were TOO NOISY to mean anything: their ratios spread by more than "
            f"{NOISE_BOUND:.0%}. Run them again with nothing else on this machine.",
            file=sys.stderr,
        )
        return 3
    return 1 if short else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rows and rounds: under two minutes")
    parser.add_argument(
        "--only", default="", metavar="ROWS", help="families, such as single or single/always/32, with commas between"
    )
    parser.add_argument(
        "--keep", action="store_true", help="add the run to benchmarks/results/ and write docs/performance.md"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
