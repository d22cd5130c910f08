"""The little that the original takes from XML: the name and the own text of the root element.

Everything before the root element (declaration, comments, DOCTYPE) is skipped here and never reaches the parser, so no
entity is ever declared, expanded or fetched. Expat then reads the root element and is stopped at its end tag.
"""

from __future__ import annotations

import re
from xml.parsers import expat

_NO_MAP = (
    "unknown type map[string]interface {}"  # what the original says of any element that it cannot finish
)
_BEFORE_ROOT = re.compile(r"<\?(?P<pi>.*?)\?>|<!--(?P<comment>.*?)-->|<!(?P<directive>)|<", re.DOTALL)
_DIRECTIVE_PART = re.compile(r"""<!--.*?-->|"[^"]*"|'[^']*'|[<>]""", re.DOTALL)
_CUT_SHORT = tuple(
    expat.errors.codes[text]
    for text in (expat.errors.XML_ERROR_UNCLOSED_TOKEN, expat.errors.XML_ERROR_NO_ELEMENTS)
)
_ENCODING = re.compile(r"""\bencoding\s*=\s*["']([^"']*)["']""")
_VERSION = re.compile(r"""\bversion\s*=\s*["']([^"']*)["']""")


class XmlError(ValueError):
    """The text has no readable root element; the message is the original's as far as it is its own."""


class _RootEnded(Exception):
    pass


def root_element(text: str) -> tuple[str, str]:
    """Local name and own character data of the root element. What follows it is not looked at."""
    start = _root_start(text)
    names: list[str] = []
    own_text: list[str] = []
    depth = 0

    def on_start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth == 1:
            names.append(name)

    def on_end(name: str) -> None:
        nonlocal depth
        depth -= 1
        if depth == 0:
            raise _RootEnded

    def on_text(data: str) -> None:
        if depth == 1:
            own_text.append(data)

    parser = expat.ParserCreate("utf-8")
    parser.StartElementHandler = on_start
    parser.EndElementHandler = on_end
    parser.CharacterDataHandler = on_text
    try:
        parser.Parse(text[start:].encode("utf-8", "replace"), True)
    except _RootEnded:
        return _local_name(names[0]), "".join(own_text)
    except expat.ExpatError as error:
        if names:
            raise XmlError(_NO_MAP) from None
        line = text.count("\n", 0, start) + error.lineno
        problem = "unexpected EOF" if error.code in _CUT_SHORT else expat.ErrorString(error.code)
        raise XmlError(f"XML syntax error on line {line}: {problem}") from None
    raise XmlError(_NO_MAP)


def _root_start(text: str) -> int:
    position = 0
    while True:
        match = _BEFORE_ROOT.search(text, position)
        if match is None:
            raise XmlError("EOF")
        if match["directive"] is not None:
            position = _directive_end(text, match.end())
        elif match["pi"] is not None:
            _check_declaration(match["pi"])
            position = match.end()
        elif match["comment"] is not None:
            position = match.end()
        elif text.startswith(("<?", "<!"), match.start()):
            raise XmlError(f"XML syntax error on line {text.count(chr(10)) + 1}: unexpected EOF")
        else:
            return match.start()


def _directive_end(text: str, position: int) -> int:
    """The end of a `<!DOCTYPE …>` with whatever is nested in it."""
    depth = 1
    while depth:
        match = _DIRECTIVE_PART.search(text, position)
        if match is None:
            raise XmlError(f"XML syntax error on line {text.count(chr(10)) + 1}: unexpected EOF")
        position = match.end()
        depth += {"<": 1, ">": -1}.get(match[0], 0)
    return position


def _check_declaration(instruction: str) -> None:
    if instruction.split(None, 1)[:1] != ["xml"]:
        return
    version = _VERSION.search(instruction)
    if version is not None and version[1] not in ("", "1.0"):
        raise XmlError(f'xml: unsupported version "{version[1]}"; only version 1.0 is supported')
    encoding = _ENCODING.search(instruction)
    if encoding is not None and encoding[1].lower() not in ("", "utf-8"):
        raise XmlError(f'xml: encoding "{encoding[1]}" declared but Decoder.CharsetReader is nil')


def _local_name(name: str) -> str:
    space, colon, local = name.partition(":")
    return local if colon and space and local else name
