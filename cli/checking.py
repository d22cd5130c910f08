"""`validate`: every problem of a workflow file, with its line and column."""

from __future__ import annotations

from typing import Any

import click

from cli import exits
from cli.options import json_option, read_workflow_file
from cli.output import err_console, out_console, print_json
from cli.places import Place, place_of


@click.command("validate")
@click.argument("files", metavar="WORKFLOW.json...", nargs=-1, required=True)
@click.option(
    "--load", "modules", metavar="MODULE", multiple=True, help="A Python module with step types of your own."
)
@json_option
def validate_command(files: tuple[str, ...], modules: tuple[str, ...], as_json: bool) -> None:
    """Check workflow files without running them: every problem with its line.

    Needs no node. Exit status 1 when a file has a problem; warnings do not count.
    """
    from cli.local import load_user_types
    from node.checking import check_payload

    user_types = load_user_types(modules)
    reports: list[dict[str, Any]] = []
    for file in files:
        text = read_workflow_file(file)
        report = check_payload(text, user_types)
        problems = [(problem, place_of(text, problem.path)) for problem in report.problems]
        warnings = [(warning, place_of(text, warning.path)) for warning in report.warnings]
        reports.append(
            {
                "file": file,
                "valid": report.valid,
                "steps_total": report.steps_total,
                "problems": [
                    {
                        "path": problem.path,
                        "line": place.line if place else None,
                        "column": place.column if place else None,
                        "message": problem.message,
                        "code": problem.code,
                    }
                    for problem, place in problems
                ],
                "warnings": [
                    {
                        "path": warning.path,
                        "line": place.line if place else None,
                        "column": place.column if place else None,
                        "message": warning.message,
                    }
                    for warning, place in warnings
                ],
            }
        )
        if as_json:
            continue
        if report.valid:
            out_console().print(f"{file}: valid, {report.steps_total} steps", markup=False)
        for problem, place in problems:
            at = problem.path or "workflow"
            out_console().print(f"{_position(file, place)}: {at}: {problem.message}", markup=False)
        for warning, place in warnings:
            out_console().print(
                f"{_position(file, place)}: warning: {warning.path}: {warning.message}", markup=False
            )
    if as_json:
        print_json(reports if len(reports) > 1 else reports[0])
    wrong = sum(1 for report in reports if not report["valid"])
    if wrong:
        if not as_json:
            count = sum(len(report["problems"]) for report in reports)
            err_console().print(
                f"{count} problem{'s' if count != 1 else ''} in {wrong} of {len(files)} files"
            )
        raise SystemExit(exits.NOT_OK)


def _position(file: str, place: Place | None) -> str:
    return file if place is None else f"{file}:{place.line}:{place.column}"
