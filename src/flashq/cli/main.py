"""The `flashq` command: its parts, and how an error leaves it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

import flashq
from flashq.cli import exit_codes
from flashq.cli.completion import EPILOG as COMPLETION_EPILOG
from flashq.cli.completion import completion, prepare
from flashq.cli.consume import EPILOG as CONSUME_EPILOG
from flashq.cli.consume import consume
from flashq.cli.demo import EPILOG as DEMO_EPILOG
from flashq.cli.demo import demo
from flashq.cli.export import EXPORT_EPILOG, IMPORT_EPILOG, export, import_
from flashq.cli.groups import groups
from flashq.cli.health import EPILOG as HEALTH_EPILOG
from flashq.cli.health import health
from flashq.cli.migrate import EPILOG as MIGRATE_EPILOG
from flashq.cli.migrate import migrate
from flashq.cli.offline import dump, repair, verify
from flashq.cli.produce import EPILOG as PRODUCE_EPILOG
from flashq.cli.produce import produce
from flashq.cli.serve import EPILOG as SERVE_EPILOG
from flashq.cli.serve import serve
from flashq.cli.stdout import finish
from flashq.cli.topics import topics
from flashq.errors import FlashQError
from flashq.logging import one_line

# Plain help: rich would more than double the time that `flashq --help` takes. Tracebacks are Python's own.
app = typer.Typer(
    name="flashq",
    help="FlashQ: a record log with topics, offsets and consumer groups.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    no_args_is_help=True,
)
app.command("serve", epilog=SERVE_EPILOG)(serve)
app.command("demo", epilog=DEMO_EPILOG)(demo)
app.command("produce", epilog=PRODUCE_EPILOG)(produce)
app.command("consume", epilog=CONSUME_EPILOG)(consume)
app.command("export", epilog=EXPORT_EPILOG)(export)
app.command("import", epilog=IMPORT_EPILOG)(import_)
app.command("migrate", epilog=MIGRATE_EPILOG)(migrate)
app.add_typer(topics, name="topics")
app.add_typer(groups, name="groups")
app.command("health", epilog=HEALTH_EPILOG)(health)
app.command("verify")(verify)
app.command("repair")(repair)
app.command("dump")(dump)
app.command("completion", epilog=COMPLETION_EPILOG)(completion)

_HINTS = {
    "connection_failed": "flashq serve starts a server; --server or FLASHQ_URL says where one is",
    "unauthorized": "FLASHQ_TOKEN takes the server's token",
}
"""For errors that come from places that know nothing of commands."""


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"flashq {flashq.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command (default: of this process) and return its exit code; `exit_codes` says what each means.

    An error on purpose is one line on standard error, and a line of advice where there is some. Only a mistake
    of ours shows a traceback.
    """
    if sys.stdout is None or sys.stderr is None:  # a connection would get their descriptors, and what we print
        _complain("standard output or standard error is closed. Nothing was done", "redirect it, say to /dev/null")
        return exit_codes.USAGE
    prepare()
    code = _run(arguments)
    try:
        finish()
    except OSError as error:
        _complain(_told(error), None)
        return exit_codes.exit_code(error)
    return code


def _run(arguments: Sequence[str] | None) -> int:
    try:
        app(arguments, prog_name="flashq")
    except SystemExit as leaving:
        return _code_of(leaving)
    except KeyboardInterrupt:
        return exit_codes.INTERRUPTED
    except FlashQError as error:
        _complain(error.message, error.details.get("hint") or _HINTS.get(error.code))
        return exit_codes.exit_code(error)
    except OSError as error:
        code = exit_codes.exit_code(error)
        if code == exit_codes.UNEXPECTED:
            raise
        _complain(_told(error), None)
        return code
    return exit_codes.OK


def _code_of(leaving: SystemExit) -> int:
    if leaving.code is None:
        return exit_codes.OK
    return leaving.code if isinstance(leaving.code, int) else exit_codes.UNEXPECTED


def _told(error: OSError) -> str:
    """The system's words and the file they are about, without the number."""
    words = error.strerror or str(error)
    return words if error.filename is None else f"{error.filename!r}: {words}"


def _complain(message: str, hint: object) -> None:
    if sys.stderr is None:
        return  # the exit code still says it
    try:
        print(f"flashq: {one_line(message)}", file=sys.stderr)
        if hint:
            print(f"hint: {one_line(str(hint))}", file=sys.stderr)
    except OSError:
        pass  # nobody is reading
