"""`start`: a node in this process, until a signal or an error ends it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from cli import exits


def _host_and_port(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, int]:
    """`127.0.0.1:7410`, `:7410`, `[::1]:0`."""
    host, colon, port = value.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise click.BadParameter(
            f"{value!r} is not HOST:PORT, for example 127.0.0.1:7410", context, parameter
        )
    return host.strip("[]") or "127.0.0.1", int(port)


def _slots(context: click.Context, parameter: click.Parameter, value: str) -> int | None:
    if value == "auto":
        return None
    if not value.isdigit() or not 1 <= int(value) <= 1024:
        raise click.BadParameter(f"{value!r} is not a number from 1 to 1024, or `auto`", context, parameter)
    return int(value)


def _language_settings(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> dict[str, Any]:
    """`max_variables=50`, `allowed_domains=["example.com"]`: JSON, or text where it is none."""
    from workflow.steps.base import Settings

    config: dict[str, Any] = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not equals:
            raise click.BadParameter(
                f"{value!r} is not NAME=VALUE, for example max_variables=50", context, parameter
            )
        try:
            config[name] = json.loads(text)
        except ValueError:
            config[name] = text
        try:
            Settings.from_config({name: config[name]})
        except (ValueError, TypeError) as error:
            raise click.BadParameter(f"{value!r}: {error}", context, parameter) from None
    return config


def _named_clients(path: Path | None) -> Any:
    """Raises click.BadParameter with the place in the file; never shows a value."""
    from node.worker.named_clients import ClientsInvalid, read_named_clients

    if path is None:
        return {}
    try:
        return read_named_clients(path, os.environ)
    except ClientsInvalid as error:
        raise click.BadParameter(f"{path}: {error}", param_hint="--http-clients") from None


@click.command("start")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("thaiyyal-data"),
    show_default=True,
    help="Everything the node keeps. One node at a time.",
)
@click.option(
    "--api",
    metavar="HOST:PORT",
    default="127.0.0.1:7410",
    show_default=True,
    callback=_host_and_port,
    help="Where the HTTP API listens; port 0 takes a free one. It has no login yet: keep it on loopback.",
)
@click.option(
    "--cluster",
    metavar="HOST:PORT",
    default="127.0.0.1:7411",
    show_default=True,
    callback=_host_and_port,
    help="Where other nodes reach this one. A single node opens nothing there.",
)
@click.option(
    "--slots",
    metavar="N|auto",
    default="auto",
    show_default=True,
    callback=_slots,
    help="Runner processes; auto is one per CPU.",
)
@click.option(
    "--load", "modules", metavar="MODULE", multiple=True, help="A Python module with step types of your own."
)
@click.option(
    "--allow-http/--no-allow-http", default=False, help="The http step may call plain http:// addresses."
)
@click.option(
    "--allow-localhost/--no-allow-localhost", default=False, help="The http step may call loopback addresses."
)
@click.option(
    "--allow-private/--no-allow-private",
    default=False,
    help="The http step may call private addresses (10.0.0.0/8 …).",
)
@click.option(
    "--setting",
    "language",
    metavar="NAME=VALUE",
    multiple=True,
    callback=_language_settings,
    help="A limit of the language, such as max_execution_time=10m or max_variables=5000 (docs/cli.md lists them).",
)
@click.option(
    "--http-clients",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Named clients of http steps: base URLs, headers, secrets from the environment (docs/language.md).",
)
@click.option("--log-format", type=click.Choice(["plain", "json"]), default="plain", show_default=True)
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True
)
def start_command(
    data_dir: Path,
    api: tuple[str, int],
    cluster: tuple[str, int],
    slots: int | None,
    modules: tuple[str, ...],
    allow_http: bool,
    allow_localhost: bool,
    allow_private: bool,
    language: dict[str, Any],
    http_clients: Path | None,
    log_format: Any,
    log_level: Any,
) -> None:
    """Start a node. Ctrl-C (or SIGTERM) stops it in good order; kill -9 loses nothing either."""
    from node.peer import PeerFailed, run_peer
    from node.settings import NodeSettings
    from node.telemetry.logs import configure_logs

    configure_logs(form=log_format, level=log_level)
    settings = NodeSettings.from_options(
        data_dir=data_dir,
        api_host=api[0],
        api_port=api[1],
        slots=slots,
        load=modules,
        allow_http=allow_http,
        allow_localhost=allow_localhost,
        allow_private=allow_private,
        language=language,
        http_clients=_named_clients(http_clients),
    )
    try:
        run_peer(settings)
    except PeerFailed as error:
        raise exits.Stop(str(error), exits.CANNOT_START) from None
