"""`python -m fuzz TARGET [--seconds N]`: mutate, guided by the branches taken, until a promise breaks (then it fails).

Inputs that reach something new are kept in `--keep` (a scratch directory), to choose from for the corpus. A failing
input is written to the current directory: run it with `--replay`.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
import tempfile
import tracemalloc
from pathlib import Path

TARGETS = ("frames", "requests", "bodies")
CORPUS = Path(__file__).parent / "corpus"
_INPUT_TIMEOUT_S = 10
_MEMORY_MIB = 2048


def main() -> None:
    arguments = _arguments()
    logging.disable(logging.CRITICAL)
    if arguments.replay:
        check = importlib.import_module(f"fuzz.{arguments.target}").check
        for path in arguments.replay:
            check(path.read_bytes())
        return
    import atheris

    with atheris.instrument_imports(include=["flashq", "fuzz"]):
        target = importlib.import_module(f"fuzz.{arguments.target}")
    with tempfile.TemporaryDirectory(prefix="flashq-fuzz-") as scratch:
        kept = arguments.keep or Path(scratch)
        kept.mkdir(parents=True, exist_ok=True)
        atheris.Setup([sys.argv[0], *_options(arguments, kept, target.MAX_BYTES)], target.check)
        tracemalloc.start()  # targets ask it for what an input takes
        atheris.Fuzz()  # ends the process


def _options(arguments: argparse.Namespace, kept: Path, max_bytes: int) -> list[str]:
    corpus = CORPUS / arguments.target
    limits = [f"-max_len={max_bytes}", f"-timeout={_INPUT_TIMEOUT_S}", f"-rss_limit_mb={_MEMORY_MIB}"]
    return [f"-max_total_time={arguments.seconds}", "-print_final_stats=1", *limits, str(kept), str(corpus)]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=60, help="how long to look for inputs (default 60)")
    parser.add_argument("--keep", type=Path, help="a directory for inputs that reach something new")
    parser.add_argument("--replay", type=Path, nargs="+", help="check these inputs and no others; needs no atheris")
    return parser.parse_args()


if __name__ == "__main__":
    main()
