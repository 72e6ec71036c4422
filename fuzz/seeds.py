"""The inputs fuzzing starts from: `python -m fuzz.seeds` writes them into the corpora."""

from __future__ import annotations

import gzip
from struct import pack_into

from crc32c import crc32c

from flashq.batch import HEADER, PREFIX, encode, hash_of_key
from flashq.record import NO_HEADERS, Row
from fuzz.__main__ import CORPUS
from fuzz.frames import ANY_OFFSET, RIGHT_CRCS, RIGHT_NUMBERS, WHOLE_TOPIC

TIME_MS = 1_700_000_000_123
ROWS: list[list[Row]] = [
    [(None, b"v", NO_HEADERS)],
    [(b"key", b"value", [("header", b"h"), ("second", b"")]), (b"", b"", NO_HEADERS)],
    [(None, "Grüße".encode(), [("ключ", b"\x00\xff")])] * 5,
]


def frame(rows: list[Row], offset: int = 0, key_hash: bytes | None = None) -> bytes:
    batch = encode(rows, TIME_MS, key_hash)
    batch.place(offset, 0, 0)
    return bytes(batch.frame)


def compressed(plain: bytes) -> bytes:
    out = bytearray(plain[: HEADER.size] + gzip.compress(plain[HEADER.size :], mtime=0))
    pack_into(">I", out, 0, len(out) - PREFIX.size)
    out[22] |= 1
    pack_into(">I", out, 17, crc32c(out[21:]))
    return bytes(out)


def frames() -> dict[str, bytes]:
    one, two, five = (frame(rows) for rows in ROWS)
    log = one + frame(ROWS[1], 1, hash_of_key(b"k")) + frame(ROWS[2], 3)
    group = frame([(None, b'{"group":"g"}', NO_HEADERS)]) + frame(
        [(b"id", b'{"topic":"t","offset":5,"timestamp_ms":7,"metadata":null}', NO_HEADERS)], 1
    )
    logs = {
        "one": one,
        "log": log,
        "torn": log[:-7],
        "torn-sector": log[:-200] + bytes(200),
        "damaged": log[:70] + b"\xff" + log[71:],
        "gzip": compressed(two) + frame(ROWS[0], 2),
        "group": group,
        "five": five,
    }
    ways = {
        "as-is": 0,
        "mended": RIGHT_CRCS | RIGHT_NUMBERS,
        "crcs": RIGHT_CRCS,
        "group": RIGHT_CRCS | ANY_OFFSET,
        "topic": WHOLE_TOPIC | RIGHT_CRCS | RIGHT_NUMBERS,
        "topic-as-is": WHOLE_TOPIC,
    }
    return {f"{name}-{way}": bytes([how]) + log for name, log in logs.items() for way, how in ways.items()}


JSON = b"Host: localhost\r\nContent-Type: application/json\r\n"
"""Fields of a request with a body."""


def _post(path: str, body: bytes, fields: bytes = JSON) -> bytes:
    return b"POST %b HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n%b" % (path.encode(), fields, len(body), body)


def _get(target: str, fields: bytes = b"", method: bytes = b"GET", version: bytes = b"1.1") -> bytes:
    return b"%b %b HTTP/%b\r\nHost: localhost\r\n%b\r\n" % (method, target.encode(), version, fields)


def requests() -> dict[str, bytes]:
    post = _post("/topics/t/records", b'{"records":[{"key":"k","value":"v","headers":{"h":"j"}}]}')
    lines = _post("/topics/t/records", b'{"value":"1"}\n{"value":"2"}\n', JSON.replace(b"json", b"x-ndjson"))
    chunked = (
        b"POST /topics/t/records HTTP/1.1\r\n" + JSON + b"Transfer-Encoding: chunked\r\n\r\n"
        b'a;x=y\r\n{"records"\r\n13\r\n:[{"value":"abc"}]}\r\n0\r\nT: u\r\n\r\n'
    )
    streams = {
        "post-and-read": post + lines + _get("/topics/t/records?from_offset=1&max_records=2"),
        "chunked": chunked + _get("/topics/t/records", b"Accept: application/x-ndjson\r\n"),
        "expect": post.replace(b"Content-Length", b"Expect: 100-continue\r\nContent-Length") + post,
        "idempotent": (post + post).replace(
            b"Content-Length", b"Idempotency-Key: k\r\nIf-Next-Offset: 0\r\nContent-Length"
        ),
        "sse": post + _get("/topics/t/stream?from_offset=0") + _get("/topics"),
        "sse-old": post + _get("/topics/t/stream", version=b"1.0") + _get("/topics"),
        "long-poll": post + _get("/topics/t/records?from_offset=1&timeout_ms=60000") + post,
        "topics": b"PUT /topics/u HTTP/1.1\r\n"
        + JSON
        + b'Content-Length: 21\r\n\r\n{"retention_ms":1000}'
        + _get("/topics")
        + _get("/topics/u")
        + _get("/topics/u", method=b"DELETE"),
        "groups": post
        + _post("/consumer/g", b"")
        + _post("/consumer/g/topics/t/offset", b'{"offset":1,"metadata":"m"}')
        + _get("/consumer/g/topics/t?max_records=1")
        + _post("/consumer/g/topics/t/offset/reset", b'{"to":"earliest"}')
        + _get("/consumer/g")
        + _get("/consumer")
        + _get("/consumer/g", method=b"DELETE"),
        "service": _get("/health")
        + _get("/metrics")
        + _get("/openapi.json", method=b"HEAD")
        + _get("/health", version=b"1.0"),
        "browser": _get("/topics", b"Origin: http://evil.example\r\nSec-Fetch-Site: cross-site\r\n")
        + _get("/topics")
        + b"OPTIONS /topics HTTP/1.1\r\nHost: localhost\r\nOrigin: http://a\r\nAccess-Control-Request-Method: PUT\r\n\r\n",
        "smuggling": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "close": _get("/topics", b"Connection: close\r\n") + _get("/topics"),
        "odd": b"\r\n\r\nGET / HTTP/1.1\r\nX:  a \t \r\nHost: [::1]:80\r\nX: b\r\n\r\nGET //x HTTP/1.1\r\n\r\n",
    }
    return {
        f"{name}-{limits}": bytes([limits, number]) + stream
        for number, (name, stream) in enumerate(streams.items())
        for limits in range(2)
    }


def bodies() -> dict[str, bytes]:
    lines, post, other, query, time, fields = (bytes([kind]) for kind in range(6))
    return {
        "lines": lines
        + b'{"value":"a","key":"k","headers":{"h":"j"}}\n\r\n {"value":"YWI=","encoding":"base64"} \n{"value":""}',
        "lines-sharing": lines + b'{"value":"a"}{"value":"b"}\n{"value":\n"c"}\n',
        "lines-unicode": lines + '{"value":"Grüße 👋","headers":{"ключ":"\\ud83d\\ude00\\u0000"}}\n'.encode(),
        "lines-wrong": lines
        + b'{"value":"\\ud800"}\n{"value":1}\n{"value":"\xff"}\nnull\n[[[[[[{"value":"a","value":null}',
        "post": post + b'{"records":[{"value":"a","x":[1,-2.5e3,null,true]},{"value":"","key":"","headers":{}}]}',
        "post-base64": post
        + b'{"records":[{"value":"AAE=","encoding":"base64","key":"/w==","key_encoding":"base64"}]}',
        "post-deep": post + b'{"records":' + b"[" * 600,
        "configure": other + b'{"retention_ms":null,"retention_bytes":9223372036854775807,"segment_bytes":1048576}',
        "commit": other + b'{"offset":-1,"metadata":"m"}',
        "reset": other + b'{"to":"time","time":"2026-01-15","offset":5,"dry_run":true}',
        "poll": query + b"from_offset=10&max_records=1_0&max_bytes=%31%32&timeout_ms=0&include_headers=false",
        "poll-time": query + b"from_time=2026-01-15T10:30:45.123%2B01:00",
        "sync": query + b"sync=always",
        "query-odd": query + b"=&&a;b=%ff&from_offset=%EF%BC%95&from_offset=18446744073709551616",
        "time": time + b"2026-01-15T10:30:45.123456789+01:00",
        "time-date": time + b"9999-12-31",
        "time-number": time + b"1700000000123",
        "accept": fields + b"application/json;q=0.5, application/x-ndjson ; q=1.000,*/*;q=0",
        "key": fields + b"an-idempotency-key",
    }


def main() -> None:
    for target in (frames, requests, bodies):
        corpus = CORPUS / target.__name__
        corpus.mkdir(parents=True, exist_ok=True)
        for name, data in target().items():
            (corpus / name).write_bytes(data)


if __name__ == "__main__":
    main()
