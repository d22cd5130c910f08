"""Options that several commands share, and the reading of what users give: files, inputs, addresses."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from cli import exits
from cli.places import place_at
from thaiyyal.client import DEFAULT_ADDRESS, normal_address

# The node takes 10 MiB; a bigger file is refused here already, with its name.
workflow_file_bytes_max: Final = 10 * 1024 * 1024

Command = TypeVar("Command", bound=Callable[..., Any])


def node_option(command: Command) -> Command:
    """`--node`: which node to talk to; several are tried in turn."""
    return click.option(
        "--node",
        "-n",
        "addresses",
        metavar="ADDRESS[,ADDRESS…]",
        envvar="THAIYYAL_NODE",
        default=DEFAULT_ADDRESS.removeprefix("http://"),
        show_default=True,
        show_envvar=True,
        callback=_addresses,
        help="The node to talk to; of several, the first that answers.",
    )(command)


def json_option(command: Command) -> Command:
    """`--json`: output for programs."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(command)


def _addresses(context: click.Context, parameter: click.Parameter, value: str) -> list[str]:
    try:
        return [normal_address(part) for part in value.split(",") if part.strip()]
    except ValueError as error:
        raise click.BadParameter(str(error), context, parameter) from None


def read_workflow_file(path: str) -> str:
    """The text of a workflow file, `-` for standard input. Ends the command for what is no JSON object."""
    text = _read_text(path)
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        place = place_at(text, error.pos)
        raise exits.Stop(f"{path}:{place.line}:{place.column}: not JSON: {error.msg}", exits.NOT_OK) from None
    except RecursionError:
        raise exits.Stop(f"{path}: nested too deeply to be read", exits.NOT_OK) from None
    if not isinstance(document, dict):
        kind = "an array" if isinstance(document, list) else "a single value"
        raise exits.Stop(f"{path}:1:1: a workflow is a JSON object, this is {kind}", exits.NOT_OK)
    return text


def _read_text(path: str) -> str:
    try:
        if path == "-":
            content = sys.stdin.buffer.read(workflow_file_bytes_max + 1)
        else:
            with Path(path).open("rb") as file:
                content = file.read(workflow_file_bytes_max + 1)
    except OSError as error:
        raise exits.Stop(f"{path}: {error.strerror or error}", exits.USAGE) from None
    if len(content) > workflow_file_bytes_max:
        raise exits.Stop(f"{path}: larger than {workflow_file_bytes_max} bytes", exits.USAGE)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise exits.Stop(f"{path}: not UTF-8 text at byte {error.start}", exits.NOT_OK) from None


def parse_pairs(
    context: click.Context, parameter: click.Parameter, values: Sequence[str]
) -> dict[str, Any] | None:
    """`amount=3 name=Anna flags='[true]'`: JSON where it is JSON, else the text itself."""
    if not values:
        return None
    pairs: dict[str, Any] = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{value!r} is not NAME=VALUE", context, parameter)
        if name in pairs:
            raise click.BadParameter(f"{name!r} is given twice", context, parameter)
        try:
            pairs[name] = json.loads(text, parse_constant=_no_constant)
        except ValueError:
            pairs[name] = text
    return pairs


def parse_text_pairs(
    context: click.Context, parameter: click.Parameter, values: Sequence[str]
) -> dict[str, str] | None:
    """`team=blue`: as parse_pairs, but every value stays text."""
    if not values:
        return None
    pairs = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{value!r} is not NAME=VALUE", context, parameter)
        pairs[name] = text
    return pairs


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
