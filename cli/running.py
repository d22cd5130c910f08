"""`run` and `watch`: an execution from its start, or from now, to its end, as it happens."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import click
from rich.live import Live

from cli.asking import event_object, refuse_unless_completed
from cli.options import json_option, node_option, parse_pairs, parse_text_pairs, read_workflow_file
from cli.output import StepBoard, err_console, event_line, note, print_execution, print_json
from thaiyyal.client import Client, Event, Execution, new_idempotency_key


@click.command("run")
@click.argument("file", metavar="WORKFLOW.json", required=False)
@click.option("--id", "workflow_id", metavar="ID", help="Run a registered workflow instead of a file.")
@click.option("--version", type=click.IntRange(1), help="Of the registered workflow; the newest by default.")
@click.option(
    "--input",
    "-i",
    "inputs",
    metavar="NAME=VALUE",
    multiple=True,
    callback=parse_pairs,
    help="An input, `context.NAME` in expressions. JSON where it is JSON (3, true, [1]), else text.",
)
@click.option("--tag", "tags", metavar="NAME=VALUE", multiple=True, callback=parse_text_pairs)
@click.option("--priority", type=click.IntRange(0, 9), help="9 is the most urgent.  [default: 5]")
@click.option("--key", metavar="TEXT", help="Idempotency key: the same key starts nothing twice.")
@click.option("--no-wait", is_flag=True, help="Print the execution's id and end at once.")
@click.option("--local", is_flag=True, help="Run in this process, without a node; nothing is stored.")
@click.option(
    "--load", "modules", metavar="MODULE", multiple=True, help="With --local: step types of your own."
)
@click.option("--allow-http/--no-allow-http", default=False, help="With --local: plain http:// addresses.")
@click.option(
    "--allow-localhost/--no-allow-localhost", default=False, help="With --local: loopback addresses."
)
@node_option
@json_option
def run_command(
    file: str | None,
    workflow_id: str | None,
    version: int | None,
    inputs: dict[str, Any] | None,
    tags: dict[str, str] | None,
    priority: int | None,
    key: str | None,
    no_wait: bool,
    local: bool,
    modules: tuple[str, ...],
    allow_http: bool,
    allow_localhost: bool,
    addresses: list[str],
    as_json: bool,
) -> None:
    """Run a workflow and show its result.

    WORKFLOW.json is a payload as the editor exports it; `-` reads standard input.
    """
    if (file is None) == (workflow_id is None):
        raise click.UsageError("give either a workflow file or --id of a registered workflow")
    text = None if file is None else read_workflow_file(file)
    if local:
        if text is None or no_wait:
            raise click.UsageError("--local runs a file, and waits for its result")
        from cli.local import run_here

        execution = run_here(
            text, inputs=inputs, modules=modules, allow_http=allow_http, allow_localhost=allow_localhost
        )
        finish(execution, as_json=as_json)
        return
    if modules or allow_http or allow_localhost:
        raise click.UsageError(
            "--load, --allow-http and --allow-localhost go with --local; else with `start`"
        )

    async def work() -> Execution:
        async with Client(addresses) as client:
            execution = await client.start(
                text,
                workflow_id=workflow_id,
                version=version,
                inputs=inputs,
                tags=tags,
                priority=priority,
                idempotency_key=key or new_idempotency_key(),
            )
            if no_wait:
                return execution
            return await follow(client, execution, as_json=as_json, lines=False)

    execution = asyncio.run(work())
    if no_wait:
        if as_json:
            print_json(execution.raw)
        else:
            click.echo(execution.id)
        return
    finish(execution, as_json=as_json)


@click.command("watch")
@click.argument("execution_id", metavar="ID")
@node_option
@json_option
def watch_command(execution_id: str, addresses: list[str], as_json: bool) -> None:
    """Follow an execution live, step by step, to its end.

    With --json, and when the output is no terminal, one event per line.
    """

    async def work() -> Execution:
        async with Client(addresses) as client:
            execution = await client.get(execution_id)
            return await follow(client, execution, as_json=as_json, lines=True)

    execution = asyncio.run(work())
    if as_json:
        refuse_unless_completed(execution.status)
    else:
        finish(execution, as_json=False)


def finish(execution: Execution, *, as_json: bool) -> None:
    """Print an ended execution; the command's exit status follows from it."""
    if as_json:
        print_json(execution.raw)
    else:
        print_execution(execution)
    refuse_unless_completed(execution.status)


async def follow(client: Client, execution: Execution, *, as_json: bool, lines: bool) -> Execution:
    """The execution at its end. Meanwhile: a live board on a terminal, else lines if `lines`, else nothing."""
    try:
        events = client.events(execution.id)
        if as_json or not err_console().is_terminal:
            async for event in events:
                if lines and as_json:
                    click.echo(json.dumps(event_object(event), ensure_ascii=False))
                elif lines:
                    click.echo(event_line(event))
        else:
            await _draw(client, execution.id, events)
        return await client.wait(execution.id)
    except asyncio.CancelledError:
        note(f"the execution goes on; follow it with: thaiyyal-node watch {execution.id}")
        raise


async def _draw(client: Client, execution_id: str, events: AsyncIterator[Event]) -> None:
    known = await client.get(execution_id, steps=True)
    board = StepBoard(execution_id, [(step.id, step.type) for step in known.steps or () if not step.path])
    with Live(board, console=err_console(), refresh_per_second=12, transient=False):
        async for event in events:
            board.update(event)
