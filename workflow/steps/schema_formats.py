"""The `format` checks of schema_validator: what gojsonschema 1.2.0 accepts under each name.

Unknown formats accept everything, and only texts are checked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import date
from ipaddress import IPv6Address, ip_address
from typing import Final

from jsonschema import FormatChecker

from workflow.steps.regexp import PatternInvalid, Regexp
from workflow.steps.url_rules import UrlRefused, split_url

_TIME = r"(?:[01]?[0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:[.,][0-9]+)?"
_ZONE = r"(?:Z|[+-][0-9]{2}:[0-9]{2})"
_DATE = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})\Z")
_CLOCK = re.compile(rf"{_TIME}{_ZONE}?\Z")
_CLOCK_ZONE = re.compile(rf"{_TIME}{_ZONE}\Z")
_HOSTNAME = re.compile(
    r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9\-]{0,61}[a-zA-Z0-9])?)(?:\.(?:[a-zA-Z0-9](?:[a-zA-Z0-9\-]{0,61}[a-zA-Z0-9])?))*\Z"
)
_UUID = re.compile(r"[a-f0-9]{8}(?:-[a-f0-9]{4}){3}-[a-f0-9]{12}\Z", re.IGNORECASE | re.ASCII)
_URI_TEMPLATE = re.compile(r"[^{]*(?:\{[^}]*\}[^{]*)*\Z")
_JSON_POINTER = re.compile(r"(?:/(?:[^~/]|~0|~1)*)*\Z")
_RELATIVE_JSON_POINTER = re.compile(r"(?:0|[1-9][0-9]*)(?:#|(?:/(?:[^~/]|~0|~1)*)*)\Z")
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\u0080-\U0010ffff-]+"
_ADDRESS = rf"(?:{_ATOM}(?:\.{_ATOM})*|\"(?:[^\"\\\r\n]|\\.)*\")@(?:{_ATOM}(?:\.{_ATOM})*|\[[0-9A-Fa-f:.]+\])"
_EMAIL = re.compile(
    rf"[ \t]*(?:{_ADDRESS}|(?:(?:{_ATOM}|\"(?:[^\"\\\r\n]|\\.)*\")[ \t]*)*<[ \t]*{_ADDRESS}[ \t]*>)[ \t]*\Z"
)
_pattern_text_max: Final = 1000  # longer texts are compared with no pattern that could backtrack


def _is_date(text: str) -> bool:
    match = _DATE.match(text)
    if match is None:
        return False
    try:
        date(
            int(match[1]) or 4, int(match[2]), int(match[3])
        )  # year 0 is a leap year to Go and unknown to datetime
    except ValueError:
        return False
    return True


def _is_time(text: str) -> bool:
    return _CLOCK.match(text) is not None


def _is_date_time(text: str) -> bool:
    day, separator, clock = text.partition("T")
    if separator:
        return _is_date(day) and _CLOCK_ZONE.match(clock) is not None
    return _is_date(text) or _is_time(text)  # gojsonschema takes either half alone


def _is_email(text: str) -> bool:
    return len(text) <= _pattern_text_max and _EMAIL.match(text) is not None


def _is_hostname(text: str) -> bool:
    return len(text) < 256 and _HOSTNAME.match(text) is not None


def _is_ipv4(text: str) -> bool:
    return "." in text and _is_ip(text)


def _is_ipv6(text: str) -> bool:
    return ":" in text and _is_ip(text)


def _is_ip(text: str) -> bool:
    try:
        address = ip_address(text)
    except ValueError:
        return False
    return not (isinstance(address, IPv6Address) and address.scope_id)


def _is_uri_reference(text: str) -> bool:
    try:
        split_url(text)
    except UrlRefused:
        return False
    return "\\" not in text


def _is_uri(text: str) -> bool:
    return _is_uri_reference(text) and split_url(text)[0] != ""


def _is_uri_template(text: str) -> bool:
    if "\\" in text:
        return False
    return _URI_TEMPLATE.match(text.partition("#")[0].partition("?")[0]) is not None


def _is_regex(text: str) -> bool:
    try:
        Regexp(text)
    except PatternInvalid:
        return False
    return True


def _matches(pattern: re.Pattern[str]) -> Callable[[str], bool]:
    return lambda text: pattern.match(text) is not None


_CHECKS: Mapping[str, Callable[[str], bool]] = {
    "date": _is_date,
    "time": _is_time,
    "date-time": _is_date_time,
    "hostname": _is_hostname,
    "email": _is_email,
    "idn-email": _is_email,
    "ipv4": _is_ipv4,
    "ipv6": _is_ipv6,
    "uri": _is_uri,
    "uri-reference": _is_uri_reference,
    "iri": _is_uri,
    "iri-reference": _is_uri_reference,
    "uri-template": _is_uri_template,
    "uuid": _matches(_UUID),
    "regex": _is_regex,
    "json-pointer": _matches(_JSON_POINTER),
    "relative-json-pointer": _matches(_RELATIVE_JSON_POINTER),
}


def _format_checker() -> FormatChecker:
    checker = FormatChecker(formats=())
    for name, check in _CHECKS.items():
        checker.checkers = {**checker.checkers, name: (_for_text(check), ())}
    return checker


def _for_text(check: Callable[[str], bool]) -> Callable[[object], bool]:
    return lambda value: check(value) if isinstance(value, str) else True


FORMATS: Final = _format_checker()
