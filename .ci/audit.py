"""Known vulnerabilities of what requirements.lock names: exit code 1 if there are any.

Where the service that knows them cannot be reached, one line says so, and that is all.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

COMMAND = "-r requirements.lock --require-hashes --disable-pip --progress-spinner off --timeout 10 --format json"
UNKNOWN = "audit: the vulnerability service (pypi.org) could not be reached or knows none of this; nothing was audited"
UNREACHABLE = ("ConnectionError", "Could not connect", "Timeout")
"""What pip-audit says when it is so: on standard error, with no report."""


def judge(report: dict[str, Any] | None) -> tuple[list[str], int]:
    """What to say of a report of pip-audit (None: it has none), and the exit code."""
    packages = [] if report is None else report["dependencies"]
    audited = [each for each in packages if "skip_reason" not in each]
    if not audited:
        return [UNKNOWN], 0
    found = [(each, known) for each in audited for known in each["vulns"]]
    lines = [
        f"audit: {each['name']} {each['version']} has {known['id']}; mended in {known['fix_versions'] or 'no version'}"
        for each, known in found
    ]
    skipped = len(packages) - len(audited)
    lines.append(
        f"audit: {len(found)} known vulnerabilities in {len(audited)} packages ({skipped} not known to pypi.org)"
    )
    return lines, 1 if found else 0


def main() -> int:
    command = [sys.executable, "-m", "pip_audit", *COMMAND.split()]
    told = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - no part of it is input
    try:
        report = json.loads(told.stdout)
    except ValueError:
        report = None
        if not any(words in told.stderr for words in UNREACHABLE):
            print(told.stderr, file=sys.stderr)
            return 2
    lines, code = judge(report)
    print("\n".join(lines))
    return code


if __name__ == "__main__":
    sys.exit(main())
