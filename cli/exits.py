"""Exit statuses of the command, and the exceptions that lead to them."""

from __future__ import annotations

from typing import Final

import click

OK: Final = 0
NOT_OK: Final = 1  # the workflow is invalid, or the execution ended otherwise than completed
USAGE: Final = 2  # click's own status for bad arguments
UNREACHABLE: Final = 3
REFUSED: Final = 4
CANNOT_START: Final = 5
INTERRUPTED: Final = 130

TEXT: Final = """\b
Exit status:
  0    it worked
  1    the workflow is not valid, or the execution did not complete
  2    bad arguments
  3    no node answers
  4    the node refused the request
  5    the node cannot start, or ended by an error
  130  interrupted by Ctrl-C"""


class Stop(click.ClickException):
    """Ends the command with one clear line and a status of ours."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.exit_code = status  # type: ignore[misc]  # click reads it from the instance
