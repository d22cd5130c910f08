"""How the parameters of a user's function are filled, and which declarations are refused."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from thaiyyal import StepFailed, StepTypeError, step_type
from thaiyyal.step_types import UserStepType, _registered, describe, registered


@pytest.fixture(autouse=True)
def nothing_stays_registered() -> Iterator[None]:
    before = dict(_registered)
    yield
    _registered.clear()
    _registered.update(before)


CTX: Any = object()


def called(function: Any, inputs: list[Any], data: dict[str, Any]) -> Any:
    return describe(function, name="it").call(inputs, data, CTX)


def test_the_first_positional_parameter_is_the_first_input():
    assert called(lambda image: image, ["a", "b"], {}) == "a"


def test_without_inputs_the_first_parameter_is_none():
    assert called(lambda image: image, [], {}) is None


def test_the_first_input_is_never_taken_from_data():
    assert called(lambda image: image, ["a"], {"image": "other"}) == "a"


def test_a_first_parameter_named_inputs_is_the_list_of_all():
    assert called(lambda inputs: inputs, ["a", "b"], {}) == ["a", "b"]


def test_others_are_the_further_inputs():
    assert called(lambda first, *others: (first, others), [1, 2, 3], {}) == (1, (2, 3))


def test_further_parameters_are_fields_of_data():
    assert called(lambda image, width, height=7: (image, width, height), ["a"], {"width": 5}) == ("a", 5, 7)
    assert called(lambda image, width, height=7: height, ["a"], {"width": 5, "height": 6}) == 6


def test_a_missing_field_is_an_error_that_no_retry_cures():
    with pytest.raises(StepFailed, match="it needs width, height") as failure:
        called(lambda image, width, height: 0, ["a"], {})
    assert not failure.value.retryable


def test_fields_that_no_parameter_names_go_to_the_double_star():
    assert called(lambda _, width, **rest: (width, rest), [None], {"width": 1, "a": 2, "label": "x"}) == (
        1,
        {"a": 2, "label": "x"},
    )


def test_data_never_becomes_the_context():
    function = lambda _, *, ctx, **rest: (ctx, rest)  # noqa: E731
    assert called(function, [None], {"ctx": "forged", "a": 1}) == (CTX, {"a": 1})


def test_a_function_may_have_no_parameters_at_all():
    assert called(lambda: 3, ["a"], {"width": 1}) == 3


def test_only_keyword_parameters_take_no_input():
    def step(*, width: int) -> int:
        return width

    assert called(step, ["a"], {"width": 4}) == 4


def test_an_async_function_is_known_as_one():
    async def step(value: int) -> int:
        return value

    assert describe(step, name="it").is_async
    assert asyncio.run(called(step, [3], {})) == 3


def test_an_object_with_an_async_call_is_known_as_one():
    class Step:
        async def __call__(self, value: int) -> int:
            return value

    assert describe(Step(), name="it").is_async
    assert not describe(lambda: 1, name="it").is_async


def test_the_decorator_registers_and_returns_the_function_unchanged():
    @step_type("resize_image", effect="read")
    def resize(image: str) -> str:
        """Makes it small.

        And more.
        """
        return image

    assert resize("a") == "a"
    declared = registered()["resize_image"]
    assert isinstance(declared, UserStepType)
    assert (declared.effect, declared.description) == ("read", "Makes it small.")


def test_without_a_name_the_functions_own_is_taken_and_the_effect_is_write():
    @step_type
    def send_mail() -> None: ...

    assert registered()["send_mail"].effect == "write"


def test_a_name_belongs_to_one_function():
    @step_type("mine")
    def first() -> None: ...

    with pytest.raises(StepTypeError, match="registered twice"):

        @step_type("mine")
        def second() -> None: ...


def test_the_same_function_may_be_imported_again():
    def declare() -> None:
        @step_type("again")
        def function() -> None: ...

    declare()
    declare()


@pytest.mark.parametrize("name", ["", "Upper", "1st", "with space", "a" * 129, "umläut", "new\nline"])
def test_a_bad_name_is_refused(name: str):
    with pytest.raises(StepTypeError, match="is no name for a step type"):
        describe(lambda: 1, name=name)


@pytest.mark.parametrize("name", ["a", "a" * 128, "a.b-c_1"])
def test_a_good_name_is_taken(name: str):
    assert describe(lambda: 1, name=name).name == name


def test_an_unknown_effect_is_refused():
    with pytest.raises(StepTypeError, match="effect is 'harmless'"):
        describe(lambda: 1, name="it", effect="harmless")  # type: ignore[arg-type]


def test_signatures_that_cannot_be_filled_are_refused():
    with pytest.raises(StepTypeError, match="ctx is passed by name"):
        describe(lambda ctx, /: 1, name="it")
    with pytest.raises(StepTypeError, match="width stands before"):
        describe(lambda image, width, /: 1, name="it")
    with pytest.raises(StepTypeError, match="needs a parameter for the first input"):
        describe(lambda *others: 1, name="it")
    with pytest.raises(StepTypeError, match="width stands between"):
        describe(lambda image, width, *others: 1, name="it")
