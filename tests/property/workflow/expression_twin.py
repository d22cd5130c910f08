"""A second implementation of the expression language, written plainly from its description.

It cuts strings and evaluates as it goes, with no thought of speed, and shares with the real one only the conversions
of values (text form, number, letter case). Evaluators raise Fails for the original's errors and Dies for what kills it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from workflow.steps.casing import SPACE, lower, upper
from workflow.values import MapSlice, byte_len, parse_float, text_form, to_number


class Fails(Exception):
    """The original reports an error."""


class Dies(Exception):
    """The original's process dies."""


@dataclass(frozen=True)
class Names:
    """What an expression sees. `depth` counts calls out of arithmetic: without end means death."""

    value: Any
    variables: dict[str, Any]
    context: dict[str, Any]
    results: dict[str, Any]
    depth: int = 0


def with_item(names: Names) -> Names:
    if names.value is None:
        return names
    variables = dict(names.variables)
    variables.setdefault("item", names.value)
    variables.setdefault("input", names.value)
    return replace(names, variables=variables)


# --- cutting ----------------------------------------------------------------------------------------------------


def find(text: str, operator: str) -> int:
    depth = 0
    for index in range(len(text) - len(operator) + 1):
        if text[index] == "(":
            depth += 1
        elif text[index] == ")":
            depth -= 1
        elif depth == 0 and text[index : index + len(operator)] == operator:
            return index
    return -1


def wrapped(text: str) -> bool:
    if not (text.startswith("(") and text.endswith(")")) or len(text) < 2:
        return False
    depth = 0
    for index, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if depth == 0:
            return index == len(text) - 1
    return False


def arguments_of(text: str, *, parens: bool) -> list[str]:
    found = []
    current = ""
    quote = ""
    depth = 0
    for char in text:
        if char in "\"'":
            if not quote:
                quote = char
            elif quote == char:
                quote = ""
            current += char
            continue
        if not quote and parens:
            if char == "(":
                depth += 1
            if char == ")" and depth > 0:
                depth -= 1
        if char == "," and not quote and depth == 0:
            found.append(current.strip(SPACE))
            current = ""
            continue
        current += char
    if current:
        found.append(current.strip(SPACE))
    return found


# --- EB ---------------------------------------------------------------------------------------------------------

DATE_FUNCTIONS = [
    "now",
    "parseDate",
    "toEpoch",
    "toEpochMillis",
    "fromEpoch",
    "fromEpochMillis",
    "dateDiff",
    "dateAdd",
    "year",
    "month",
    "day",
    "hour",
    "minute",
]


def condition(text: str, names: Names) -> bool:
    names = with_item(names)
    text = text.strip(SPACE)
    if wrapped(text):
        return condition(text[1:-1], names)
    if text in ("true", "false"):
        return text == "true"
    try:
        for operator in ("||", "&&"):
            at = find(text, operator)
            if at >= 0:
                left = condition(text[:at], names)
                right = condition(text[at + 2 :], names)
                return (left or right) if operator == "||" else (left and right)
    except Fails:
        pass
    if text.startswith("!") and not text.startswith("!="):
        return not condition(text[1:], names)
    at = text.find("(")
    if at > 0 and text.endswith(")") and text[:at].strip(SPACE) in [*DATE_FUNCTIONS, "isNull", "coalesce"]:
        return condition_call(text[:at].strip(SPACE), text[at + 1 : -1], names)
    if text.startswith("contains(") and text.endswith(")"):
        arguments = arguments_of(text[9:-1], parens=False)
        if len(arguments) != 2:
            raise Fails
        haystack = resolve(arguments[0], names)
        return text_form(resolve(arguments[1], names)) in text_form(haystack)
    answer = comparison(text, names)
    if answer is not None:
        return answer
    try:
        value = resolve(text, names)
        if isinstance(value, bool):
            return value
    except Fails:
        pass
    return simple(text, names.value)


def condition_call(name: str, text: str, names: Names) -> bool:
    arguments = [resolve(argument, names) for argument in arguments_of(text, parens=False)]
    if name == "isNull" and len(arguments) == 1:
        return arguments[0] is None
    if name == "coalesce":
        for argument in arguments:
            if argument is not None:
                if isinstance(argument, bool):
                    return argument
                break
    raise Fails


def comparison(text: str, names: Names) -> bool | None:
    for operator in ("==", "!=", "<=", ">=", "<", ">"):
        at = find(text, operator)
        if at < 0:
            continue
        left_text = text[:at].strip(SPACE)
        try:
            if left_text:
                left = resolve(left_text, names)
            else:
                left = names.value
                while isinstance(left, dict) and "value" in left:
                    left = left["value"]
            right = resolve(text[at + len(operator) :], names)
        except Fails:
            return None
        return compare(left, right, operator)
    return None


def compare(left: Any, right: Any, operator: str) -> bool:
    if operator == "==":
        return equal(left, right)
    if operator == "!=":
        return not equal(left, right)
    if not (isinstance(left, datetime) and isinstance(right, datetime)):
        left, right = to_number(left), to_number(right)
        if left is None or right is None:
            return False
    return bool({"<": left < right, "<=": left <= right, ">": left > right, ">=": left >= right}[operator])


def equal(left: Any, right: Any) -> bool:
    if left is None or right is None:
        return left is None and right is None
    if isinstance(left, datetime) and isinstance(right, datetime):
        return left == right
    if to_number(left) is not None and to_number(right) is not None:
        return to_number(left) == to_number(right)
    if isinstance(left, str) and isinstance(right, str):
        return left == right
    if isinstance(left, bool) and isinstance(right, bool):
        return left == right
    return False


def simple(text: str, value: Any) -> bool:
    if text in ("true", "false"):
        return text == "true"
    if isinstance(value, dict):
        value = value.get("value")
    if type(value) is not float or len(text.encode()) < 2:
        return False
    operator = text[:2] if text[:2] in (">=", "<=", "==", "!=") else text[0] if text[0] in "<>" else ""
    if not operator:
        return False
    threshold = number_prefix(text[len(operator) :])
    answers = {
        ">": value > threshold,
        "<": value < threshold,
        ">=": value >= threshold,
        "<=": value <= threshold,
        "==": value == threshold,
        "!=": value != threshold,
    }
    return answers[operator]


def number_prefix(text: str) -> float:
    """The longest start of the text that looks like a number, read as one; 0 when it is none."""
    position = 0
    while position < len(text) and text[position].isspace():
        if text[position] == "\n":
            return 0.0
        position += 1
    token = ""

    def accept(chars: str) -> bool:
        nonlocal position, token
        if position < len(text) and text[position] in chars:
            token += text[position]
            position += 1
            return True
        return False

    if accept("nN") and accept("aA") and accept("nN"):
        return math.nan
    accept("+-")
    if accept("iI") and accept("nN") and accept("fF"):
        return parse_float(token) or 0.0
    digits, powers = "0123456789_", "eEpP"
    if accept("0") and accept("xX"):
        digits, powers = "0123456789abcdefABCDEF_", "pP"
    while accept(digits):
        pass
    if accept("."):
        while accept(digits):
            pass
    if accept(powers):
        accept("+-")
        while accept("0123456789_"):
            pass
    if "p" in token.lower() and "x" not in token.lower():
        mantissa, _, power = token.lower().partition("p")
        number = parse_float(mantissa)
        try:
            return 0.0 if number is None or "_" in power else math.ldexp(number, int(power))
        except (ValueError, OverflowError):
            return 0.0
    return parse_float(token) or 0.0


# --- EV ---------------------------------------------------------------------------------------------------------

FUNCTIONS = [
    "map",
    "sum",
    "avg",
    "min",
    "max",
    "round",
    "floor",
    "ceil",
    "abs",
    "sort",
    "reverse",
    "unique",
    "flatten",
    "slice",
    "sample",
    "zip",
]
MATH_NAMES = ["pow", "sqrt", "abs", "floor", "ceil", "round", "min", "max"]


def value_of(text: str, names: Names) -> Any:
    names = with_item(names)
    text = text.strip(SPACE)
    question = text.find("?")
    if question > 0:
        colon = text.find(":", question)
        if colon > 0:
            if condition(text[:question], names):
                return value_of(text[question + 1 : colon], names)
            return value_of(text[colon + 1 :], names)
    at = text.find("(")
    if at > 0 and text.endswith(")") and text[:at].strip(SPACE) in FUNCTIONS:
        return call(text[:at].strip(SPACE), arguments_of(text[at + 1 : -1], parens=True), names)
    if any(mark in text for mark in ["+", "-", "*", "/", "%", "(", *MATH_NAMES]):
        try:
            return arithmetic(text, names)
        except Fails:
            pass
    try:
        return resolve(text, names)
    except Fails:
        if text == "null":
            return None
        raise


def call(name: str, texts: list[str], names: Names) -> Any:
    count = len(texts)
    fits = {
        "map": count == 2,
        "slice": count in (2, 3),
        "sample": count == 2,
        "zip": count >= 2,
        "sum": count >= 1,
        "avg": count >= 1,
        "min": count >= 1,
        "max": count >= 1,
    }.get(name, count == 1)
    if not fits:
        raise Fails
    if name == "map":
        items = value_of(texts[0], names)
        if isinstance(items, MapSlice):
            items = items.items
        if not isinstance(items, list):
            raise Fails
        return [value_of(texts[1], replace(names, value=item)) for item in items]
    arguments = [value_of(text, names) for text in texts]
    return FUNCTION_TABLE[name](arguments)


def numeric(value: Any) -> float:
    number = to_number(value)
    if number is None:
        raise Fails
    return number


def array(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise Fails
    return value


def many(arguments: list[Any], *, allow_one: bool) -> list[float]:
    if len(arguments) > 1:
        return [numeric(argument) for argument in arguments]
    if isinstance(arguments[0], list):
        return [numeric(item) for item in arguments[0]]
    if not allow_one:
        raise Fails
    return [numeric(arguments[0])]


def total(arguments: list[Any]) -> float:
    result = 0.0
    for number in many(arguments, allow_one=True):
        result += number
    return result if len(arguments) > 1 or isinstance(arguments[0], list) else numeric(arguments[0])


def average(arguments: list[Any]) -> float:
    numbers = many(arguments, allow_one=True)
    if not numbers:
        raise Fails
    if len(arguments) == 1 and not isinstance(arguments[0], list):
        return numbers[0]
    return total(arguments) / len(numbers)


def least(arguments: list[Any]) -> float:
    numbers = many(arguments, allow_one=False)
    if not numbers:
        raise Fails
    best = numbers[0]
    for number in numbers[1:]:
        if number < best:
            best = number
    return best


def greatest(arguments: list[Any]) -> float:
    numbers = many(arguments, allow_one=False)
    if not numbers:
        raise Fails
    best = numbers[0]
    for number in numbers[1:]:
        if number > best:
            best = number
    return best


def rounded(number: float) -> float:
    if not math.isfinite(number):
        return number
    size = abs(number)
    whole = float(math.floor(size))
    if size - whole >= 0.5:
        whole += 1
    return math.copysign(whole, number)


def floored(number: float) -> float:
    return float(math.floor(number)) if math.isfinite(number) and number != 0 else number


def ceiled(number: float) -> float:
    return -floored(-number)


def per_element(function: Any) -> Any:
    def apply(arguments: list[Any]) -> Any:
        if isinstance(arguments[0], list):
            return [function(numeric(item)) for item in arguments[0]]
        return function(numeric(arguments[0]))

    return apply


def exchange_sorted(arguments: list[Any]) -> list[Any]:
    items = list(array(arguments[0]))
    for i in range(len(items)):
        for j in range(i + 1, len(items)):
            left, right = to_number(items[i]), to_number(items[j])
            if left is not None and right is not None:
                after = left > right
            else:
                after = text_form(items[i]) > text_form(items[j])
            if after:
                items[i], items[j] = items[j], items[i]
    return items


def uniques(arguments: list[Any]) -> list[Any]:
    seen: list[str] = []
    found = []
    for item in array(arguments[0]):
        if text_form(item) not in seen:
            seen.append(text_form(item))
            found.append(item)
    return found


def flattened(arguments: list[Any]) -> list[Any]:
    found = []
    for item in array(arguments[0]):
        found += flattened([item]) if isinstance(item, list) else [item]
    return found


def to_int(number: float) -> int:
    return int(number) if math.isfinite(number) and -(2.0**63) <= number < 2.0**63 else -(2**63)


def sliced(arguments: list[Any]) -> list[Any]:
    items = array(arguments[0])

    def bound(value: Any) -> int:
        index = to_int(numeric(value))
        if index < 0:
            index += len(items)
        return min(max(index, 0), len(items))

    start = bound(arguments[1])
    end = bound(arguments[2]) if len(arguments) == 3 else len(items)
    return [] if start > end else items[start:end]


def sampled(arguments: list[Any]) -> list[Any]:
    items = array(arguments[0])
    count = to_int(numeric(arguments[1]))
    if count < 0:
        raise Fails
    if count == 0:
        return []
    if count >= len(items):
        found = list(items)
        for i in range(len(found) - 1, 0, -1):
            j = int((i + 1) * 0.5)
            found[i], found[j] = found[j], found[i]
        return found
    return [items[i * (len(items) // count)] for i in range(count)]


def zipped(arguments: list[Any]) -> list[Any]:
    arrays = [array(argument) for argument in arguments]
    longest = max(len(entry) for entry in arrays)
    return [[entry[i] if i < len(entry) else None for entry in arrays] for i in range(longest)]


FUNCTION_TABLE: dict[str, Any] = {
    "sum": total,
    "avg": average,
    "min": least,
    "max": greatest,
    "round": per_element(rounded),
    "floor": per_element(floored),
    "ceil": per_element(ceiled),
    "abs": per_element(abs),
    "sort": exchange_sorted,
    "reverse": lambda arguments: array(arguments[0])[::-1],
    "unique": uniques,
    "flatten": flattened,
    "slice": sliced,
    "sample": sampled,
    "zip": zipped,
}


# --- EA ---------------------------------------------------------------------------------------------------------

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
DIGITS = "0123456789"


def arithmetic(text: str, names: Names) -> float:
    text = text.strip(SPACE)
    if not text:
        raise Fails
    reader = Reader(text, with_item(names))
    number = reader.sum()
    reader.blanks()
    if reader.at < len(text):
        raise Fails
    return number


class Reader:
    """Recursive descent that computes as it reads."""

    def __init__(self, text: str, names: Names) -> None:
        self.text = text
        self.names = names
        self.at = 0

    def blanks(self) -> None:
        while self.at < len(self.text) and self.text[self.at] in " \t\n\r":
            self.at += 1

    def peek(self) -> str:
        return self.text[self.at] if self.at < len(self.text) else "\0"

    def sum(self) -> float:
        left = self.product()
        while True:
            self.blanks()
            operator = self.peek()
            if operator not in "+-":
                return left
            self.at += 1
            right = self.product()
            left = left + right if operator == "+" else left - right

    def product(self) -> float:
        left = self.factor()
        while True:
            self.blanks()
            operator = self.peek()
            if operator not in "*/%":
                return left
            self.at += 1
            right = self.factor()
            if operator == "*":
                left *= right
                continue
            if right == 0:
                raise Fails
            left = left / right if operator == "/" else remainder(left, right)

    def factor(self) -> float:
        self.blanks()
        char = self.peek()
        if char == "+":
            self.at += 1
            return self.factor()
        if char == "-":
            self.at += 1
            return -self.factor()
        if char == "(":
            self.at += 1
            number = self.sum()
            self.blanks()
            if self.peek() != ")":
                raise Fails
            self.at += 1
            return number
        if char in DIGITS:
            return self.number()
        if char in LETTERS:
            return self.identifier()
        raise Fails

    def number(self) -> float:
        start = self.at
        dots = 0
        while self.peek() in DIGITS or (self.peek() == "." and dots == 0):
            dots += self.peek() == "."
            self.at += 1
        number = parse_float(self.text[start : self.at])
        if number is None:
            raise Fails
        return number

    def identifier(self) -> float:
        start = self.at
        while self.peek() in LETTERS + DIGITS + "_":
            self.at += 1
        name = self.text[start : self.at]
        self.blanks()
        if self.peek() == "(":
            return self.math_call(name) if name in MATH_NAMES else self.value_call(start)
        if self.peek() not in ".[":
            return numeric(resolve("variables." + name, replace(self.names, value=None)))
        path = name
        while self.peek() in ".[":
            path += self.path_part()
        bare = replace(self.names, value=None)
        try:
            value = resolve_by_name(path, bare)
        except Fails:
            value = resolve_by_name("variables." + path, bare)
        return numeric(value)

    def path_part(self) -> str:
        start = self.at
        self.at += 1
        allowed = LETTERS + DIGITS + "_-" if self.text[start] == "." else DIGITS
        while self.peek() in allowed:
            self.at += 1
        if self.at == start + 1:
            raise Fails
        if self.text[start] == "[":
            if self.peek() != "]":
                raise Fails
            self.at += 1
        return self.text[start : self.at]

    def math_call(self, name: str) -> float:
        self.at += 1
        arguments: list[float] = []
        self.blanks()
        if self.peek() == ")":
            self.at += 1
            return mathematics(name, arguments)
        while True:
            arguments.append(self.sum())
            self.blanks()
            char = self.peek()
            self.at += 1
            if char == ")":
                return mathematics(name, arguments)
            if char != ",":
                raise Fails

    def value_call(self, start: int) -> float:
        depth = 0
        quote = ""
        end = self.at
        while end < len(self.text):
            char = self.text[end]
            end += 1
            if quote:
                if char == quote:
                    quote = ""
            elif char in "\"'":
                quote = char
            elif char == "(":
                depth += 1
            elif char == ")":
                depth -= 1
                if depth == 0:
                    break
        if depth:
            raise Fails
        self.at = end
        if self.names.depth > 40:
            raise Dies
        variables = self.names.variables
        current = variables["input"] if "input" in variables else variables.get("item")
        inner = replace(self.names, value=current, depth=self.names.depth + 1)
        return numeric(value_of(self.text[start:end], inner))


def remainder(left: float, right: float) -> float:
    divisor, dividend = to_int(right), to_int(left)
    if divisor == 0:
        raise Dies
    rest = abs(dividend) - abs(divisor) * (abs(dividend) // abs(divisor))
    return float(rest if dividend >= 0 else -rest)


def mathematics(name: str, arguments: list[float]) -> float:
    if len(arguments) < 2 if name in ("min", "max") else len(arguments) != (2 if name == "pow" else 1):
        raise Fails
    if name == "sqrt":
        if arguments[0] < 0:
            raise Fails
        return math.sqrt(arguments[0])
    if name == "pow":
        return raised(arguments[0], arguments[1])
    if name in ("min", "max"):
        return (least if name == "min" else greatest)(arguments)
    return {"abs": abs, "floor": floored, "ceil": ceiled, "round": rounded}[name](arguments[0])


def raised(base: float, exponent: float) -> float:
    is_odd = exponent % 2 == 1
    if base == 0 and exponent < 0:
        return math.copysign(math.inf, base) if is_odd else math.inf
    try:
        return math.pow(base, exponent)
    except ValueError:
        return math.nan
    except OverflowError:
        return -math.inf if base < 0 and is_odd else math.inf


# --- references -------------------------------------------------------------------------------------------------


def resolve(text: str, names: Names) -> Any:
    text = text.strip(SPACE)
    for quote in "\"'":
        if text.startswith(quote) and text.endswith(quote):
            if len(text) == 1:
                raise Dies
            return text[1:-1]
    number = parse_float(text)
    if number is not None:
        return number
    if text in ("true", "false"):
        return text == "true"
    if any(char in text for char in "*/%+") or any(name + "(" in text for name in MATH_NAMES):
        try:
            return arithmetic(text, names)
        except Fails:
            pass
    return resolve_by_name(text, names)


def resolve_by_name(text: str, names: Names) -> Any:
    if text.startswith("node."):
        step_id, dot, path = text[5:].partition(".")
        if step_id not in names.results:
            raise Fails
        return follow(path, names.results[step_id]) if dot else names.results[step_id]
    if text.startswith("variables."):
        rest = text[10:]
        end = 0
        while end < len(rest) and rest[end] not in ".[":
            end += 1
        if rest[:end] not in names.variables:
            raise Fails
        return follow(rest[end:].removeprefix("."), names.variables[rest[:end]])
    if text.startswith("context."):
        if text[8:] not in names.context:
            raise Fails
        return names.context[text[8:]]
    if text in ("input", "item"):
        return names.value
    for root in ("item.", "input."):
        if text.startswith(root):
            return follow(text[len(root) :], names.value)
    if names.value is None:
        raise Fails
    return follow(text, names.value)


def follow(path: str, value: Any) -> Any:
    parts = [""]
    parens = brackets = 0
    for char in path:
        parens += (char == "(") - (char == ")")
        brackets += (char == "[") - (char == "]")
        if char == "." and parens == 0 and brackets == 0:
            parts.append("")
        else:
            parts[-1] += char
    for part in parts:
        if not part:
            continue
        if part.endswith(")") and "(" in part:
            at = part.index("(")
            value = method(
                value,
                part[:at],
                [method_argument(text) for text in arguments_of(part[at + 1 : -1], parens=False)],
            )
        elif part.endswith("]") and "[" in part:
            at = part.index("[")
            if at:
                value = member(value, part[:at])
            value = element(value, part[at + 1 : -1])
        elif part == "length":
            if isinstance(value, list):
                return float(len(value))
            if isinstance(value, str):
                return float(byte_len(value))
            raise Fails
        else:
            value = member(value, part)
    return value


def member(value: Any, name: str) -> Any:
    if not isinstance(value, dict) or name not in value:
        raise Fails
    return value[name]


def element(value: Any, index_text: str) -> Any:
    digits = index_text[1:] if index_text[:1] in ("+", "-") else index_text
    if not digits or any(char not in DIGITS for char in digits) or not isinstance(value, list):
        raise Fails
    index = int(index_text)
    if not 0 <= index < len(value):
        raise Fails
    return value[index]


def method_argument(text: str) -> Any:
    for quote in "\"'":
        if text.startswith(quote) and text.endswith(quote):
            if len(text) == 1:
                raise Dies
            return text[1:-1]
    if text in ("true", "false", "null"):
        return {"true": True, "false": False, "null": None}[text]
    number = parse_float(text)
    return text.strip("\"'") if number is None else number


def method(value: Any, name: str, arguments: list[Any]) -> Any:
    texts = [text_form(argument) for argument in arguments]
    if name == "includes" and isinstance(value, list):
        if len(texts) != 1:
            raise Fails
        return any(
            (type(item) is type(arguments[0]) and item == arguments[0]) or text_form(item) == texts[0]
            for item in value
        )
    if isinstance(value, str):
        return text_method(value, name, texts)
    if isinstance(value, list):
        if name == "join" and len(texts) == 1:
            return texts[0].join(text_form(item) for item in value)
        if name == "reverse":
            return value[::-1]
        if name in ("first", "last"):
            return (value[0] if name == "first" else value[-1]) if value else None
    raise Fails


def text_method(value: str, name: str, texts: list[str]) -> Any:
    match name, len(texts):
        case "toUpperCase", _:
            return upper(value)
        case "toLowerCase", _:
            return lower(value)
        case "trim", _:
            return value.strip(SPACE)
        case "includes", 1:
            return texts[0] in value
        case "startsWith", 1:
            return value.startswith(texts[0])
        case "endsWith", 1:
            return value.endswith(texts[0])
        case "replace", 2:
            return value.replace(texts[0], texts[1])
        case "split", 1:
            return value.split(texts[0]) if texts[0] else list(value)
    raise Fails
