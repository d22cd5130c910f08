"""The group of commands, and the one place where errors become a line and an exit status."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final

import click

from cli import exits

# (section of the help, (command, module, attribute)). Modules are loaded when a command is used: `--help` and
# completion stay fast, and only `start` loads the engine.
SECTIONS: Final = (
    ("Run a node", (("start", "cli.starting", "start_command"),)),
    (
        "Run workflows",
        (
            ("run", "cli.running", "run_command"),
            ("validate", "cli.checking", "validate_command"),
            ("workflows", "cli.asking", "workflows_group"),
        ),
    ),
    (
        "Look at executions",
        (
            ("list", "cli.asking", "list_command"),
            ("get", "cli.asking", "get_command"),
            ("watch", "cli.running", "watch_command"),
            ("history", "cli.asking", "history_command"),
            ("cancel", "cli.asking", "cancel_command"),
            ("signal", "cli.asking", "signal_command"),
        ),
    ),
    (
        "About",
        (("status", "cli.asking", "status_command"), ("version", "cli.asking", "version_command")),
    ),
)

EPILOG: Final = f"""{exits.TEXT}

\b
Shell completion, for bash (zsh and fish likewise):
  eval "$(_THAIYYAL_NODE_COMPLETE=bash_source thaiyyal-node)"
"""


class _ReaderLeft(Exception):
    """Nobody reads standard output any more."""


class Commands(click.Group):
    """Commands in sections, each loaded when it is asked for."""

    _places: Final = {name: (module, attribute) for _, rows in SECTIONS for name, module, attribute in rows}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the help."""
        return list(self._places)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load one; None for a name that is no command."""
        if cmd_name not in self._places:
            return None
        module, attribute = self._places[cmd_name]
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click, with a suggestion for a name that is nearly right."""
        import difflib

        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            near = difflib.get_close_matches(name, self._places, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise click.UsageError(f"No such command {name!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """As click, which would turn a reader that left (head, less) into a failure."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise _ReaderLeft from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The sections, one after the other."""
        for title, rows in SECTIONS:
            commands = [(name, self.get_command(ctx, name)) for name, _, _ in rows]
            with formatter.section(title):
                formatter.write_dl(
                    [
                        (name, command.get_short_help_str(90))
                        for name, command in commands
                        if command is not None
                    ]
                )


@click.group(
    cls=Commands,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    no_args_is_help=True,
)
@click.version_option(package_name="thaiyyal-node", prog_name="thaiyyal-node")
def commands() -> None:
    """Runs Thaiyyal workflows durably: nothing acknowledged is lost when a machine dies.

    \b
    First steps:
      thaiyyal-node start                    # a node; data in ./thaiyyal-data
      thaiyyal-node run WORKFLOW.json        # on that node
      thaiyyal-node run WORKFLOW.json --local   # without a node
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `thaiyyal-node` and of `python -m cli.main`; ends the process with an exit status."""
    try:
        status = _run(arguments)
        sys.stdout.flush()
    except (_ReaderLeft, BrokenPipeError):
        # Point stdout elsewhere, so that the interpreter's last flush is quiet.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = exits.OK
    sys.exit(status)


def _run(arguments: Sequence[str] | None) -> int:
    try:
        result: Any = commands.main(
            args=None if arguments is None else list(arguments),
            prog_name="thaiyyal-node",
            standalone_mode=False,
        )
        return result if isinstance(result, int) else exits.OK
    except click.exceptions.Abort:
        return exits.INTERRUPTED
    except KeyboardInterrupt:
        return exits.INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else exits.OK
    except (_ReaderLeft, BrokenPipeError):
        raise
    except Exception as error:
        return _client_error(error)


def _client_error(error: Exception) -> int:
    """The client's errors as one clear line; anything else is a fault of ours and keeps its traceback."""
    from thaiyyal.client import ApiError, Unreachable

    if isinstance(error, Unreachable):
        click.echo(f"Error: {error}", err=True)
        click.echo(
            "Start a node with `thaiyyal-node start`, or name another with --node HOST:PORT.", err=True
        )
        return exits.UNREACHABLE
    if isinstance(error, ApiError):
        click.echo(f"Error: {error.detail or error.title} ({error.code})", err=True)
        for problem in error.problems:
            line = f"{problem.get('path') or 'workflow'}: {problem.get('message')}"
            if line != error.detail and problem.get("message") != error.detail:
                click.echo(f"  {line}", err=True)
        if error.what_to_do:
            click.echo(error.what_to_do, err=True)
        return exits.REFUSED
    raise error


if __name__ == "__main__":
    main()
