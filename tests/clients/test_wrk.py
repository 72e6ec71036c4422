"""wrk: many keep-alive connections at full speed, and pipelined requests."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.server.running import Process

POST = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '{"records":[{"value":"v"}]}'
"""
PIPELINED = """
init = function(args)
  local requests = {}
  for i = 1, 16 do
    requests[i] = wrk.format("POST", "/topics/pipelined/records")
  end
  pipeline = table.concat(requests)
end
request = function()
  return pipeline
end
"""


def run(wrk: str, script: Path, target: str) -> int:
    """How many requests were answered; every one with 200."""
    done = subprocess.run(
        [wrk, "-t1", "-c32", "-d1s", "-s", str(script), target], capture_output=True, timeout=30, check=True, text=True
    )
    assert "Non-2xx" not in done.stdout, done.stdout
    assert "Socket errors" not in done.stdout, done.stdout
    found = re.search(r"(\d+) requests in", done.stdout)
    assert found, done.stdout
    return int(found[1])


def test_every_post_of_many_connections_is_stored_once(wrk: str, server: Process, tmp_path: Path) -> None:
    script = tmp_path / "post.lua"
    script.write_text(POST)
    answered = run(wrk, script, f"http://127.0.0.1:{server.port}/topics/wrk/records")
    stored = server.poll("wrk", max_records=1)["high_water_mark"]
    assert answered > 100
    assert answered <= stored <= answered + 32  # those in flight when it stopped were stored, and not counted


def test_pipelined_posts_are_all_answered(wrk: str, server: Process, tmp_path: Path) -> None:
    script = tmp_path / "pipelined.lua"
    script.write_text(POST + PIPELINED)
    answered = run(wrk, script, f"http://127.0.0.1:{server.port}/topics/pipelined/records")
    stored = server.poll("pipelined", max_records=1)["high_water_mark"]
    assert answered > 100
    assert answered <= stored <= answered + 32 * 16
