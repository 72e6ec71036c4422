"""`flashq health`: how a server is, for people and for probes."""

from __future__ import annotations

import typer

from flashq.cli import exit_codes
from flashq.cli.output import Colour, Coloured, print_fields, print_json, span
from flashq.cli.remote import CaFile, Json, Server, client_of

EPILOG = "Example: flashq health --server https://log.example:8080 && echo fine"

_COLOURS: dict[str, Colour] = {"healthy": "green", "degraded": "yellow", "unhealthy": "red"}


def health(server: Server = None, ca_file: CaFile = None, as_json: Json = False) -> None:
    """Print how the server is. Exit code 0 if it is healthy, 9 if it is degraded or unhealthy, 7 without an answer."""
    import msgspec

    with client_of(server, ca_file, retries=0) as client:
        report = client.health()
    problems = report.problems or []
    if as_json:
        print_json(msgspec.to_builtins(report))
    else:
        fields = {
            "status": Coloured(report.status, _COLOURS[report.status]),
            "version": report.version,
            "uptime": span(int(report.uptime)),
            "topics": report.topics_count,
            "groups": report.consumer_groups_count,
        }
        print_fields(fields)
        for problem in problems:
            print_fields({"problem": problem})
    if report.status != "healthy":
        raise typer.Exit(exit_codes.NOT_HEALTHY)
