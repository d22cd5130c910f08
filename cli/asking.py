"""`list`, `get`, `history`, `cancel`, `signal`, `status`, `workflows`: one question to a node, one answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from typing import Any, TypeVar, get_args

import click

from cli import exits
from cli.options import json_option, node_option, read_workflow_file
from cli.output import (
    age_text,
    duration_text,
    event_line,
    note,
    note_of,
    out_console,
    print_execution,
    print_json,
    print_table,
    status_text,
    value_text,
)
from thaiyyal.client import Client, Event, Status, Workflow

T = TypeVar("T")


def ask(addresses: list[str], question: Callable[[Client], Coroutine[Any, Any, T]]) -> T:
    """Run one question against the first node that answers."""

    async def with_client() -> T:
        async with Client(addresses) as client:
            return await question(client)

    return asyncio.run(with_client())


@click.command("list")
@click.option("--status", type=click.Choice(get_args(Status)), help="Only executions in this status.")
@click.option("--workflow", metavar="ID", help="Only executions of this workflow.")
@click.option("--tag", metavar="NAME=VALUE", help="Only executions with this tag.")
@click.option("--limit", type=click.IntRange(1, 500), default=20, show_default=True)
@click.option("--cursor", help="Continue a list; the page before printed it.")
@node_option
@json_option
def list_command(
    status: str | None,
    workflow: str | None,
    tag: str | None,
    limit: int,
    cursor: str | None,
    addresses: list[str],
    as_json: bool,
) -> None:
    """List executions, newest first."""
    pair: tuple[str, str] | None = None
    if tag is not None:
        name, equals, value = tag.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{tag!r} is not NAME=VALUE", param_hint="--tag")
        pair = (name, value)
    page = ask(
        addresses,
        lambda client: client.list(status=status, workflow=workflow, tag=pair, limit=limit, cursor=cursor),
    )
    if as_json:
        print_json({"executions": [asdict(item) for item in page.executions], "cursor": page.cursor})
        return
    if not page.executions:
        note(
            "no executions"
            + (
                " match"
                if status or workflow or tag or cursor
                else " yet; start one with: thaiyyal-node run WORKFLOW.json"
            )
        )
        return
    print_table(
        ("ID", "STATUS", "STEPS", "STARTED", "TIME", "WORKFLOW", "ERROR"),
        [
            (
                item.id,
                status_text(item.status),
                f"{item.steps_done}/{item.steps_total}",
                age_text(item.created_at),
                duration_text(item.started_at, item.finished_at),
                item.workflow_id,
                item.error_message or "",
            )
            for item in page.executions
        ],
    )
    if page.cursor:
        note(f"more: thaiyyal-node list --cursor {page.cursor}")


@click.command("get")
@click.argument("execution_id", metavar="ID")
@click.option(
    "--wait", "wait_s", type=click.FloatRange(0), default=0.0, help="Wait so many seconds for its end."
)
@node_option
@json_option
def get_command(execution_id: str, wait_s: float, addresses: list[str], as_json: bool) -> None:
    """Show an execution, its steps and its result."""

    async def question(client: Client) -> Any:
        if wait_s:
            await client.get(execution_id, wait_s=wait_s)
        return await client.get(execution_id, steps=True)

    execution = ask(addresses, question)
    if as_json:
        print_json(execution.raw)
    else:
        print_execution(execution, steps=True)


@click.command("history")
@click.argument("execution_id", metavar="ID")
@node_option
@json_option
def history_command(execution_id: str, addresses: list[str], as_json: bool) -> None:
    """Show everything that happened to an execution."""
    events = ask(addresses, lambda client: client.history(execution_id))
    if as_json:
        print_json([event_object(event) for event in events])
    elif out_console().is_terminal:
        print_table(
            ("SEQ", "TIME", "EVENT", "STEP", "ATTEMPT", ""),
            [
                (event.seq, event.time, event.type, _step(event), event.attempt or "", note_of(event))
                for event in events
            ],
        )
    else:
        for event in events:
            click.echo(event_line(event))


def _step(event: Event) -> str:
    return (event.step or "") + "".join(f"[{index}]" for index in event.path)


def event_object(event: Event) -> dict[str, Any]:
    """An event for --json: what is not set is left out."""
    return {name: value for name, value in asdict(event).items() if value not in (None, (), {})}


@click.command("cancel")
@click.argument("execution_ids", metavar="ID...", nargs=-1, required=True)
@click.option("--reason", default="", help="Kept in the history.")
@node_option
@json_option
def cancel_command(execution_ids: tuple[str, ...], reason: str, addresses: list[str], as_json: bool) -> None:
    """Cancel executions. Durable when the command returns: nothing more is started."""

    async def question(client: Client) -> list[Any]:
        return [await client.cancel(execution_id, reason=reason) for execution_id in execution_ids]

    executions = ask(addresses, question)
    if as_json:
        print_json([execution.raw for execution in executions])
        return
    for execution in executions:
        out_console().print(execution.id, status_text(execution.status))


@click.command("signal")
@click.argument("execution_id", metavar="ID")
@click.argument("name")
@click.option("--payload", metavar="JSON", default="null", help="The value that the step gets.")
@click.option("--key", metavar="TEXT", help="Under one key the execution takes the signal once.")
@node_option
@json_option
def signal_command(
    execution_id: str, name: str, payload: str, key: str | None, addresses: list[str], as_json: bool
) -> None:
    """Send a signal to the step that waits for it. Durable when the command returns."""
    try:
        value = json.loads(payload)
    except ValueError as error:
        raise click.BadParameter(f"is not JSON: {error}", param_hint="--payload") from None
    execution = ask(addresses, lambda client: client.signal(execution_id, name, value, key=key))
    if as_json:
        print_json(execution.raw)
        return
    out_console().print(execution.id, status_text(execution.status))


@click.command("status")
@node_option
@json_option
def status_command(addresses: list[str], as_json: bool) -> None:
    """Show the node that answers: its version, log, slots and queues."""
    status = ask(addresses, lambda client: client.status())
    if as_json:
        print_json(status)
        return
    print_table(("WHAT", "VALUE"), [(name, value) for name, value in _flat(status)])


def _flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    if isinstance(value, dict) and value:
        return [
            line for key, item in value.items() for line in _flat(item, f"{name}.{key}" if name else str(key))
        ]
    return [(name.removeprefix("engine."), value if isinstance(value, str) else value_text(value, width=80))]


@click.group("workflows")
def workflows_group() -> None:
    """Registered workflows: `register FILE`, `list`, `show ID`."""


@workflows_group.command("register")
@click.argument("file", metavar="WORKFLOW.json")
@click.option(
    "--id", "workflow_id", help="Its id; without it, made from the name or the payload's workflow_id."
)
@click.option("--name", default="", help="For people.")
@click.option("--description", default="")
@node_option
@json_option
def register_command(
    file: str, workflow_id: str | None, name: str, description: str, addresses: list[str], as_json: bool
) -> None:
    """Register a workflow file; equal content keeps its version."""
    text = read_workflow_file(file)
    if workflow_id is None and not name:
        name = _name_of(file)
    workflow = ask(
        addresses,
        lambda client: client.register_workflow(
            text, workflow_id=workflow_id, name=name, description=description
        ),
    )
    if as_json:
        print_json(_workflow_object(workflow))
        return
    out_console().print(f"{workflow.id} version {workflow.version}", markup=False)
    note(f"run it with: thaiyyal-node run --id {workflow.id}")


def _name_of(file: str) -> str:
    return file.rsplit("/", 1)[-1].removesuffix(".json")


@workflows_group.command("list")
@click.option("--limit", type=click.IntRange(1, 500), default=100, show_default=True)
@click.option("--cursor", help="Continue a list; the page before printed it.")
@node_option
@json_option
def workflows_list_command(limit: int, cursor: str | None, addresses: list[str], as_json: bool) -> None:
    """List the newest version of each registered workflow."""
    workflows, more = ask(addresses, lambda client: client.list_workflows(limit=limit, cursor=cursor))
    if as_json:
        print_json({"workflows": [_workflow_object(item) for item in workflows], "cursor": more})
        return
    if not workflows:
        note("no workflows are registered; register one with: thaiyyal-node workflows register WORKFLOW.json")
        return
    print_table(
        ("ID", "VERSION", "STEPS", "REGISTERED", "NAME"),
        [
            (item.id, item.version, item.steps_total, age_text(item.created_at), item.name)
            for item in workflows
        ],
    )
    if more:
        note(f"more: thaiyyal-node workflows list --cursor {more}")


@workflows_group.command("show")
@click.argument("workflow_id", metavar="ID")
@click.option("--version", type=click.IntRange(1), help="The newest by default.")
@node_option
@json_option
def show_command(workflow_id: str, version: int | None, addresses: list[str], as_json: bool) -> None:
    """Show a registered workflow and print its payload."""
    workflow = ask(addresses, lambda client: client.get_workflow(workflow_id, version=version))
    if as_json:
        print_json({**_workflow_object(workflow), "workflow": workflow.payload})
        return
    note(
        f"{workflow.id} version {workflow.version}, registered {age_text(workflow.created_at)}  {workflow.name}"
    )
    print_json(workflow.payload)


def _workflow_object(workflow: Workflow) -> dict[str, Any]:
    document = asdict(workflow)
    del document["payload"]
    return document


@click.command("version")
@json_option
def version_command(as_json: bool) -> None:
    """Show the version of this command."""
    from importlib.metadata import version

    text = version("thaiyyal-node")
    if as_json:
        print_json({"version": text})
    else:
        click.echo(f"thaiyyal-node {text}")


def refuse_unless_completed(status: str) -> None:
    """The exit status of a command that ran an execution to its end."""
    if status != "completed":
        raise SystemExit(exits.NOT_OK)
