"""Takes a name that is built in."""

from thaiyyal import step_type


@step_type("number")
def number() -> None: ...
