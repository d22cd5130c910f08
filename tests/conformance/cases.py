"""Reading the recordings."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
OWN = ROOT / "tests" / "data" / "conformance"
SHARED = ROOT.parent / "shared" / "conformance"
VECTORS = ROOT / "tests" / "data" / "vectors.json"

OWN_FAMILIES = (
    "arrays",
    "control",
    "data",
    "expressions",
    "http",
    "inputs",
    "operations",
    "resilience",
    "state",
    "workflows",
)
SHARED_FAMILIES = ("examples", "gotests")
"""Texts of other projects: not copied here, read from beside the checkout where they are."""

VECTOR_FAMILY = "vectors"
FAMILIES = (*OWN_FAMILIES, *SHARED_FAMILIES, VECTOR_FAMILY)


@dataclass(frozen=True)
class Case:
    """One workflow and what came of it."""

    id: str
    family: str
    workflow: Any
    expect: dict[str, Any]
    raw: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    http_server: dict[str, Any] | None = None
    nondeterministic: bool = False

    def payload(self, server: str) -> bytes:
        """The payload text, with the address of the loopback server filled in."""
        text = self.raw if self.raw is not None else json.dumps(self.workflow, ensure_ascii=False)
        return fill_in(text, server).encode("utf-8", "surrogatepass")

    def expected(self, server: str) -> dict[str, Any]:
        filled: dict[str, Any] = json.loads(fill_in(json.dumps(self.expect), server))
        return filled


def fill_in(text: str, server: str) -> str:
    return text.replace("{{server}}", server).replace("{{server_addr}}", server.removeprefix("http://"))


def missing_reason(family: str) -> str | None:
    """Why a family cannot be read here, None when it can."""
    if family in SHARED_FAMILIES and not _path(family).exists():
        return f"{_path(family)} is not here: the family {family} is left out"
    return None


def _path(family: str) -> Path:
    return (SHARED if family in SHARED_FAMILIES else OWN) / f"{family}.jsonl"


@cache
def load_family(family: str) -> tuple[Case, ...]:
    """All cases of a family, in the order of the file."""
    if family == VECTOR_FAMILY:
        return tuple(_vector_cases())
    lines = _path(family).read_text(encoding="utf-8").splitlines()
    return tuple(_case(family, json.loads(line)) for line in lines)


def _case(family: str, data: dict[str, Any]) -> Case:
    return Case(
        id=data["id"],
        family=family,
        workflow=data.get("workflow"),
        expect=data["expect"],
        raw=data.get("workflow_raw"),
        config=data.get("config", {}),
        http_server=data.get("http_server"),
        nondeterministic=data.get("nondeterministic", False),
    )


def _vector_cases() -> Iterator[Case]:
    for number, entry in enumerate(vectors()["workflows"]):
        if "load_error" in entry:
            expect: dict[str, Any] = {"ok": False, "stage": "load", "error": entry["load_error"]}
        elif "run_error" in entry:
            expect = {"ok": False, "stage": "run", "error": entry["run_error"]}
        elif "dies" in entry:
            expect = {"ok": False, "crash": True, "error": "dies"}
        elif "non_finite" in entry:
            expect = {"ok": True, "unencodable": True}
        else:
            expect = {"ok": True, "node_results": entry["node_results"]}
            if "final_output" in entry:
                expect["final_output"] = entry["final_output"]
        yield Case(f"vectors/workflow-{number:03d}", VECTOR_FAMILY, entry["payload"], expect)


@cache
def vectors() -> dict[str, Any]:
    """vectors.json: recorded expressions and workflows."""
    found: dict[str, Any] = json.loads(VECTORS.read_text(encoding="utf-8"))
    return found


def groups(family: str) -> dict[str, list[Case]]:
    """Cases by the front part of their id, so that a test report has lines of a readable number."""
    found: dict[str, list[Case]] = {}
    for case in load_family(family):
        found.setdefault(case.id.rpartition("/")[0] or case.id, []).append(case)
    return found
