"""What is ours beside the original's payload: policies on nodes, declared inputs, the level."""

from __future__ import annotations

import json
from typing import Any

import pytest

from workflow.definition import LoadError
from workflow.execute import run_local
from workflow.inputs import InputsInvalid, bind_inputs
from workflow.messages import RetryPolicy
from workflow.payload import load
from workflow.policy import PolicyInvalid, parse_policy


def workflow(**more: Any) -> str:
    node = {"id": "n", "type": "expression", "data": {"expression": "context.amount * 2"}}
    start = {"id": "s", "type": "number", "data": {"value": 1}}
    return json.dumps({"nodes": [start, node], "edges": [{"source": "s", "target": "n"}], **more})


def test_a_policy_is_read_with_defaults():
    policy = parse_policy(
        {
            "retry": {"max_attempts": 5, "non_retryable": ["bad"]},
            "timeout_s": 2,
            "queue": "q",
            "labels": {"gpu": "1"},
        }
    )
    assert policy.retry == RetryPolicy(max_attempts=5, non_retryable=("bad",))
    assert (policy.timeout_s, policy.queue, policy.labels, policy.on_exhausted) == (
        2.0,
        "q",
        {"gpu": "1"},
        "fail",
    )


@pytest.mark.parametrize(
    ("policy", "place"),
    [
        ("x", "policy: "),
        ({"retries": 3}, "policy.retries: unknown field"),
        ({"effect": "wait"}, "policy.effect"),
        ({"on_exhausted": "shrug"}, "policy.on_exhausted"),
        ({"queue": ""}, "policy.queue"),
        ({"timeout_s": -1}, "policy.timeout_s"),
        ({"timeout_s": "1"}, "policy.timeout_s"),
        ({"priority": 10}, "policy.priority"),
        ({"priority": 1.5}, "policy.priority"),
        ({"labels": ["a"]}, "policy.labels"),
        ({"labels": {str(n): "" for n in range(65)}}, "policy.labels: too many"),
        ({"retry": 3}, "policy.retry: "),
        ({"retry": {"max_attempts": 0}}, "policy.retry.max_attempts"),
        ({"retry": {"attempts": 1}}, "policy.retry.attempts: unknown field"),
        ({"retry": {"jitter": 2}}, "policy.retry.jitter"),
        ({"retry": {"non_retryable": "x"}}, "policy.retry.non_retryable"),
    ],
)
def test_a_policy_that_cannot_be_read_names_the_place(policy: Any, place: str):
    with pytest.raises(PolicyInvalid) as refused:
        parse_policy(policy)
    assert str(refused.value).startswith(place)


def test_a_bad_policy_on_a_node_is_a_load_error_with_its_path():
    payload = {"nodes": [{"id": "n", "type": "number", "data": {"value": 1}, "policy": {"timeout_s": -1}}]}
    with pytest.raises(LoadError) as refused:
        load(payload)
    assert refused.value.problems[0].path == "nodes[0].policy"


def test_declared_inputs_are_context_constants_with_defaults():
    definition = load(workflow(inputs={"amount": {"type": "number", "default": 4}}))
    assert run_local(definition).final_output == 8.0
    assert run_local(definition, {"amount": 10.0}).final_output == 20.0


def test_a_required_input_that_is_missing_fails_before_anything_runs():
    definition = load(workflow(inputs={"amount": {"type": "number", "required": True}}))
    result = run_local(definition)
    assert result.error is not None
    assert result.error.message == "input 'amount' is required"
    assert result.node_results == {}


def test_inputs_of_the_wrong_type_are_all_named():
    definition = load(workflow(inputs={"amount": {"type": "number"}, "ok": {"type": "boolean"}}))
    with pytest.raises(InputsInvalid) as refused:
        bind_inputs(definition, {"amount": True, "ok": 1.0, "other": []})
    assert [problem.path for problem in refused.value.problems] == ["inputs.amount", "inputs.ok"]


@pytest.mark.parametrize("inputs", [[], "x", {"amount": 5}, {"amount": {"colour": "red"}}])
def test_an_inputs_key_that_declares_nothing_is_ignored_as_the_original_does(inputs: Any):
    assert not load(workflow(inputs=inputs)).inputs


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"type": "date"}, "inputs.amount.type"),
        ({"required": 1}, "inputs.amount.required"),
        ({"type": "number", "default": "x"}, "inputs.amount.default"),
    ],
)
def test_a_declaration_that_cannot_hold_is_refused(spec: Any, path: str):
    with pytest.raises(LoadError) as refused:
        load(workflow(inputs={"amount": spec}))
    assert refused.value.problems[0].path == path


@pytest.mark.parametrize("level", [0, 3, "2", True, 1.5, []])
def test_an_unknown_language_level_is_refused(level: Any):
    with pytest.raises(LoadError, match="language: must be 1 or 2"):
        load(workflow(language=level))


def test_level_1_can_be_named():
    assert load(workflow(language=1)).level == 1
