"""The workflows in examples/: each is valid, and gives what its README says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from node.checking import check_payload
from tests.level2_rig import level2, output
from workflow import codec
from workflow.execute import run_local
from workflow.payload import load
from workflow.steps.base import HttpFailed, HttpRequest, HttpResponse, Services, StepType

EXAMPLES = Path(__file__).parents[3] / "examples"
FILES = sorted(EXAMPLES.glob("*.json"))
OWN = {"resize_image": StepType("resize_image", (), "write", lambda *_: None, needs_data=False)}


def example(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((EXAMPLES / f"{name}.json").read_text())
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_an_example_is_valid_and_in_the_readme(path: Path) -> None:
    report = check_payload(path.read_bytes(), OWN)
    assert report.problems == ()
    assert f"`{path.name}`" in (EXAMPLES / "README.md").read_text()


def test_the_order_gives_its_receipt() -> None:
    assert (
        run_local(load(example("order")), None, Services(sleep=_no_sleep)).final_output["values"][0] == 566.1
    )


async def _no_sleep(seconds: float) -> None:
    return None


LINES = [{"item": "rice", "price": 45, "quantity": 2}, {"item": "sauce", "price": 15.5, "quantity": 1}]


@pytest.mark.parametrize(
    ("stock", "discount_from", "expected"),
    [
        ({"rice": 9, "sauce": 9}, 100, {"status": "shipped", "amount": 94.95}),
        ({"rice": 9, "sauce": 9}, 1000, {"status": "shipped", "amount": 105.5}),
        ({"rice": 1}, 100, {"status": "refunded", "amount": 94.95, "why": "not in stock: rice, sauce"}),
    ],
)
async def test_a_payment_is_shipped_or_refunded(stock: Any, discount_from: float, expected: Any) -> None:
    async with level2() as node:
        view = await node.run(
            example("payment"), {"lines": LINES, "stock": stock, "discount_from": discount_from}
        )
    assert view.status == "completed", view.error
    assert output(view) == expected


@pytest.mark.parametrize(("team", "systems"), [("platform", ["mail", "git", "cluster"]), ("sales", ["mail"])])
async def test_an_onboarding_waits_for_its_manager(team: str, systems: list[str]) -> None:
    async with level2() as node:
        view = await node.start(example("onboarding"), {"name": "Ann Lee", "team": team})
        await node.engine.signal(view.id, "approval:manager", codec.encode({"approved": True, "by": "bo"}))
        view = await node.end(view.id)
    assert view.status == "completed", view.error
    assert output(view) == {"login": "ann.lee", "systems": systems, "approved_by": "bo"}


async def test_an_onboarding_is_declined_or_expires() -> None:
    async with level2() as node:
        view = await node.start(example("onboarding"), {"name": "Ann"})
        await node.engine.signal(
            view.id, "approval:manager", codec.encode({"approved": False, "comment": "no"})
        )
        declined = await node.end(view.id)
        expired = await node.run(example("onboarding"), {"name": "Ann", "decide_within": "10ms"})
    assert declined.error is not None
    assert (declined.error.code, declined.error.message) == ("declined", "declined: no")
    assert output(expired) == {"login": None, "reminder": "nobody decided on Ann"}


async def test_an_etl_reports_good_rows_and_counts_bad_ones() -> None:
    async with level2() as node:
        view = await node.run(example("etl"))
    assert view.status == "completed", view.error
    rows = [{"id": 1, "name": "rice", "eur": 45.5}, {"id": 3, "name": "noodles", "eur": 0.31}]
    assert output(view) == {"rows": rows, "total": 45.81, "refused": 1}


async def test_a_report_gathers_what_sub_workflows_give() -> None:
    async with level2() as node:
        await node.register("etl", example("etl"))
        view = await node.run(example("report"))
    assert view.status == "completed", view.error
    assert output(view) == {"names": ["rice", "tea"], "total": 12.6}


async def test_a_crawl_notes_what_is_broken() -> None:
    asked: list[str] = []

    async def server(request: HttpRequest) -> HttpResponse:
        asked.append(request.url)
        if request.url.endswith("/broken"):
            raise HttpFailed("connection refused")
        if request.url.endswith("/busy") and asked.count(request.url) == 1:
            return HttpResponse(503, {}, b"")
        return HttpResponse(200, {"content-type": "text/html"}, b"<p>")

    async with level2(http=server) as node:
        view = await node.run(example("crawl"), {"paths": ["/", "/busy", "/broken"]})
    assert view.status == "completed", view.error
    got = output(view)
    assert [page["status"] for page in got["pages"]] == [200, 200, 0]
    assert got["broken"] == ["/broken"]
    assert got["pages"][2]["error"] == "connection refused"
    assert len(asked) == 1 + 2 + 3


async def test_pagination_goes_on_to_the_last_page() -> None:
    pages = {"first": ([1, 2], "b"), "b": ([3], "c"), "c": ([4], None)}

    async def server(request: HttpRequest) -> HttpResponse:
        items, following = pages[request.url.partition("cursor=")[2]]
        body = json.dumps({"items": items, "next": following}).encode()
        return HttpResponse(200, {"content-type": "application/json"}, body)

    async with level2(http=server) as node:
        view = await node.run(example("pagination"))
    assert view.status == "completed", view.error
    assert output(view) == {"items": [1, 2, 3, 4], "pages": 3}
