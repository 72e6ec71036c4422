"""httpx2: keep-alive, concurrency, streaming, as a Python service would."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest

from tests.server.running import Process

httpx2 = pytest.importorskip("httpx2")


def test_post_and_poll_on_one_connection(server: Process) -> None:
    with httpx2.Client(base_url=f"http://localhost:{server.port}") as client:
        for at in range(20):
            told = client.post("/topics/httpx/records", json={"records": [{"value": f"é{at}"}]})
            assert told.json()["offsets"][0]["offset"] == at
        polled = client.get("/topics/httpx/records", params={"from_offset": 5, "max_records": 3})
        assert [record["value"] for record in polled.json()["records"]] == ["é5", "é6", "é7"]


def test_a_body_that_is_generated_is_sent_in_chunks(server: Process) -> None:
    def lines() -> Iterator[bytes]:
        for at in range(1000):
            yield json.dumps({"value": str(at)}).encode() + b"\n"

    with httpx2.Client(base_url=f"http://localhost:{server.port}") as client:
        headers = {"Content-Type": "application/x-ndjson"}
        told = client.post("/topics/generated/records", content=lines(), headers=headers)
        assert told.json()["count"] == 1000
        with client.stream(
            "GET", "/topics/generated/records?max_records=1000", headers={"Accept": "application/x-ndjson"}
        ) as exported:
            assert exported.headers["x-next-offset"] == "1000"
            assert [json.loads(line)["value"] for line in exported.iter_lines()] == [str(at) for at in range(1000)]


def test_long_polls_and_posts_at_once(server: Process) -> None:
    async def talk() -> list[list[str]]:
        async with httpx2.AsyncClient(base_url=f"http://localhost:{server.port}", timeout=20) as client:
            await client.put("/topics/awaited")
            polls = [asyncio.create_task(client.get("/topics/awaited/records?timeout_ms=15000")) for _ in range(20)]
            await asyncio.sleep(0.3)
            assert not any(poll.done() for poll in polls)
            await client.post("/topics/awaited/records", json={"records": [{"value": "now"}]})
            answers = await asyncio.gather(*polls)
            return [[record["value"] for record in answer.json()["records"]] for answer in answers]

    assert asyncio.run(talk()) == [["now"]] * 20
