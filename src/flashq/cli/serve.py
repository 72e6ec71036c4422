"""`flashq serve`: settings, token, logging, then the server. Its flags are the fields of `ServerSettings`."""

from __future__ import annotations

import inspect
from typing import Annotated, Any

import typer

from flashq import logging
from flashq.config import load_settings, process_environment, read_token, token_file_warning
from flashq.settings import SETTINGS, Setting
from flashq.storage.file.directory_lock import check_not_locked

_log = logging.get_logger("flashq.cli")

EPILOG = (
    "Example: flashq serve --port 9000 --data-dir /var/lib/flashq --sync-mode periodic\n\n"
    "Each setting may also come from a FLASHQ_* variable (FLASHQ_DATA_DIR) or a TOML file (data_dir); flags go "
    "first, then variables, then the file. A token comes from --token-file or FLASHQ_TOKEN."
)


def serve(config: str | None, **flags: object) -> None:
    """Serve the log over HTTP until interrupted."""
    environ = process_environment()
    settings = load_settings(flags, environ, config)
    token = read_token(settings, environ)
    if settings.storage == "file":
        check_not_locked(settings.data_dir)  # before the second or so that loading the server can take
    logging.configure(settings.log_format, settings.log_level)
    warning = token_file_warning(settings)
    if warning is not None:
        _log.warning(warning)
    from flashq.server import run  # here, so that --help does not pay for the server

    raise typer.Exit(run(settings, token))


def _parameter(setting: Setting) -> inspect.Parameter:
    default = "" if setting.default is None or setting.kind.is_switch else f" [default: {setting.default_text}]"
    help_text = setting.meaning.replace("`", "") + default
    # Values stay text: `load_settings` parses every source alike and says where a bad value came from.
    if setting.kind.is_switch:
        names = f"{setting.flag}/--no-{setting.flag.removeprefix('--')}"
        annotation: Any = Annotated[bool | None, typer.Option(names, help=help_text, show_default=False)]
    else:
        repeated = " Repeat it for more." if setting.kind.is_list else ""
        option = typer.Option(setting.flag, metavar=setting.kind.metavar, help=help_text + repeated, show_default=False)
        annotation = Annotated[list[str] | None if setting.kind.is_list else str | None, option]
    return inspect.Parameter(setting.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _signature() -> inspect.Signature:
    option = typer.Option("--config", metavar="FILE", help="TOML file of settings.", show_default=False)
    config = inspect.Parameter(
        "config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, option]
    )
    return inspect.Signature([*map(_parameter, SETTINGS.values()), config])


# typer reads the signature; this is how a new field becomes a flag without a second list.
serve.__signature__ = _signature()  # type: ignore[attr-defined]
