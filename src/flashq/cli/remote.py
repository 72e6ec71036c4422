"""The server that a command talks to: its options, and the client they make."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from flashq import Client

Server = Annotated[
    str | None,
    typer.Option(
        "--server",
        metavar="URL",
        help="The server. [default: FLASHQ_URL, else http://127.0.0.1:8080; a token comes from FLASHQ_TOKEN]",
        show_default=False,
    ),
]
CaFile = Annotated[
    str | None,
    typer.Option("--ca-file", metavar="FILE", help="Certificates (PEM) to trust for https.", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")]


def client_of(server: str | None, ca_file: str | None, **options: Any) -> Client:
    """A client of that server; the environment's FLASHQ_URL and FLASHQ_TOKEN hold where nothing is given.

    `options` are those of `flashq.Client`.
    """
    from flashq import Client  # here, so that --help does not pay for it

    given = {"base_url": server, "verify": ca_file}
    return Client.from_env(**{name: value for name, value in given.items() if value is not None}, **options)
