"""The root element of an XML text, and nothing that could reach outside of it."""

from __future__ import annotations

import pytest

from workflow.steps.xml_text import XmlError, root_element


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<a>5</a>", ("a", "5")),
        ("<a/>", ("a", "")),
        ("<n:a x='1'> x<b>y</b>z </n:a>", ("a", " xz ")),
        ("<?xml version='1.0' encoding='UTF-8'?>\n<!-- <x> -->\n<a>1</a>", ("a", "1")),
        ("junk <a>1</a><b", ("a", "1")),
        ("<!DOCTYPE a [<!ELEMENT a (#PCDATA)> <!-- > -->]><a>1</a>", ("a", "1")),
        ("<a>&lt;&#65;&#x42;<![CDATA[<&]]></a>", ("a", "<AB<&")),
    ],
)
def test_the_root_gives_its_name_and_its_own_text(text: str, expected: tuple[str, str]) -> None:
    assert root_element(text) == expected


@pytest.mark.parametrize(
    "declaration",
    [
        '<!DOCTYPE a [<!ENTITY x "boom">]>',
        '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE a SYSTEM "http://127.0.0.1:1/x.dtd">',
        "",
    ],
)
def test_no_entity_is_ever_expanded(declaration: str) -> None:
    with pytest.raises(XmlError, match="unknown type map"):
        root_element(f"{declaration}<a>&x;</a>")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "EOF"),
        ("hello", "EOF"),
        ("<a>1", "unknown type map[string]interface {}"),
        ("<a><b></a>", "unknown type map[string]interface {}"),
        ("<!-- x", "XML syntax error on line 1: unexpected EOF"),
        ("\n<a", "XML syntax error on line 2: unexpected EOF"),
        (
            "<?xml version='1.1'?><a/>",
            'xml: unsupported version "1.1"; only version 1.0 is supported',
        ),
        (
            "<?xml version='1.0' encoding='latin1'?><a/>",
            'xml: encoding "latin1" declared but Decoder.CharsetReader is nil',
        ),
    ],
)
def test_errors_have_the_originals_words(text: str, message: str) -> None:
    with pytest.raises(XmlError) as caught:
        root_element(text)
    assert str(caught.value) == message
