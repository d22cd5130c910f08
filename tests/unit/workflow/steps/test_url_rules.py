"""Which URLs and addresses may be requested."""

from __future__ import annotations

from dataclasses import replace

import pytest

from workflow.steps.base import Settings
from workflow.steps.url_rules import UrlRefused, check_address, check_url, parse_address, split_url

STRICT = Settings(allow_http=True)
LOCALHOST = "localhost addresses are blocked (set allow_localhost=true to permit)"
PRIVATE = "private IP addresses are blocked (set allow_private_ips=true to permit)"
LINK_LOCAL = "link-local addresses are blocked (set allow_link_local=true to permit)"
METADATA = "cloud metadata endpoints are blocked (set allow_cloud_metadata=true to permit)"


@pytest.mark.parametrize(
    ("host", "problem"),
    [
        ("127.0.0.1", LOCALHOST),
        ("127.255.255.254", LOCALHOST),
        ("0.0.0.0", LOCALHOST),
        ("0.1.2.3", LOCALHOST),
        ("[::1]", LOCALHOST),
        ("[::]", LOCALHOST),
        ("[::ffff:127.0.0.1]", LOCALHOST),
        ("[::ffff:7f00:1]", LOCALHOST),
        ("[::127.0.0.1]", LOCALHOST),
        ("[64:ff9b::127.0.0.1]", LOCALHOST),
        ("[2002:7f00:1::]", LOCALHOST),
        ("127.1", LOCALHOST),
        ("0177.1", LOCALHOST),
        ("0x7f.0.0.1", LOCALHOST),
        ("2130706433", LOCALHOST),
        ("017700000001", LOCALHOST),
        ("127.0.0.1.", LOCALHOST),
        ("10.0.0.1", PRIVATE),
        ("172.16.0.1", PRIVATE),
        ("172.31.255.255", PRIVATE),
        ("192.168.1.1", PRIVATE),
        ("100.64.0.1", PRIVATE),
        ("224.0.0.1", PRIVATE),
        ("255.255.255.255", PRIVATE),
        ("[fc00::1]", PRIVATE),
        ("[fdff::1]", PRIVATE),
        ("[::ffff:10.0.0.1]", PRIVATE),
        ("[ff02::1]", PRIVATE),
        ("169.254.1.1", LINK_LOCAL),
        ("[fe80::1]", LINK_LOCAL),
        ("[fe80::1%25eth0]", LINK_LOCAL),
    ],
)
def test_every_spelling_of_an_inner_address_is_refused(host: str, problem: str) -> None:
    with pytest.raises(UrlRefused) as caught:
        check_url(f"http://{host}:8080/x", STRICT)
    shown = host.strip("[]").replace("%25", "%")
    assert str(caught.value) == f"IP validation failed for {shown}: {problem}"


@pytest.mark.parametrize(
    "host",
    [
        "1.1.1.1",
        "172.15.0.1",
        "172.32.0.1",
        "169.253.0.1",
        "[2606:4700::1111]",
        "example.com",
        "127.0.0.1.example.com",
    ],
)
def test_public_hosts_pass(host: str) -> None:
    assert check_url(f"https://user:pw@{host}/x?y#z", STRICT) == host.strip("[]")


@pytest.mark.parametrize(
    ("setting", "host"),
    [
        ("allow_localhost", "127.0.0.1"),
        ("allow_localhost", "localhost"),
        ("allow_private_ips", "10.0.0.1"),
        ("allow_link_local", "169.254.1.1"),
        ("allow_cloud_metadata", "metadata.google.internal"),
    ],
)
def test_each_setting_opens_its_own_door_only(setting: str, host: str) -> None:
    check_url(f"http://{host}/", replace(STRICT, **{setting: True}))
    for other in {"allow_localhost", "allow_private_ips", "allow_link_local", "allow_cloud_metadata"} - {
        setting
    }:
        with pytest.raises(UrlRefused):
            check_url(f"http://{host}/", replace(STRICT, **{other: True}))


def test_the_metadata_address_needs_two_doors() -> None:
    url = "http://169.254.169.254/latest"
    with pytest.raises(UrlRefused, match="link-local"):
        check_url(url, STRICT)
    with pytest.raises(UrlRefused, match="cloud metadata"):
        check_url(url, replace(STRICT, allow_link_local=True))
    check_url(url, replace(STRICT, allow_link_local=True, allow_cloud_metadata=True))


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST", "localhost.", "x.localhost", "metadata.azure.com."]
)
def test_names_of_inner_hosts_are_refused(host: str) -> None:
    with pytest.raises(UrlRefused, match="are blocked"):
        check_url(f"http://{host}/", STRICT)


def test_only_listed_domains_pass_whatever_their_case() -> None:
    settings = replace(STRICT, allowed_domains=("API.example.com",))
    check_url("http://api.EXAMPLE.com/", settings)
    with pytest.raises(UrlRefused, match=r"domain not in allowlist: www\.example\.com"):
        check_url("http://www.example.com/", settings)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("", "URL scheme not allowed:  (allowed: [http https])"),
        ("example.com/x", "URL scheme not allowed:  (allowed: [http https])"),
        ("FILE:///etc/passwd", "URL scheme not allowed: file (allowed: [http https])"),
        ("javascript:alert(1)", "URL scheme not allowed: javascript (allowed: [http https])"),
        ("http:///x", "URL missing hostname"),
        ("http://:80/", "URL missing hostname"),
        ("http://u@/", "URL missing hostname"),
        ("::::", 'invalid URL: parse "::::": missing protocol scheme'),
        ("1a:b", 'invalid URL: parse "1a:b": first path segment in URL cannot contain colon'),
        ("http://[::1", "invalid URL: parse \"http://[::1\": missing ']' in host"),
        ("http://[::1]x/", 'invalid URL: parse "http://[::1]x/": invalid port "x" after host'),
        ("http://h:8a/", 'invalid URL: parse "http://h:8a/": invalid port ":8a" after host'),
        ("http://a b/", 'invalid URL: parse "http://a b/": invalid character " " in host name'),
        ("http://h/%zz", 'invalid URL: parse "http://h/%zz": invalid URL escape "%zz"'),
        ("http://h/\n", 'invalid URL: parse "http://h/\\n": net/url: invalid control character in URL'),
    ],
)
def test_urls_that_cannot_be_requested_say_why(url: str, problem: str) -> None:
    with pytest.raises(UrlRefused) as caught:
        check_url(url, STRICT)
    assert str(caught.value) == problem


def test_the_host_is_what_follows_the_last_at_sign() -> None:
    assert split_url("HTTP://a@127.0.0.1:80@example.com:81/@x") == ("http", "example.com")


def test_a_resolved_address_is_named_with_its_host() -> None:
    with pytest.raises(UrlRefused) as caught:
        check_address("db.test", "10.0.0.1", STRICT)
    assert str(caught.value) == f"IP validation failed for db.test (10.0.0.1): {PRIVATE}"
    check_address("db.test", "1.1.1.1", STRICT)
    with pytest.raises(UrlRefused, match="not an IP address"):
        check_address("db.test", "nonsense", STRICT)


@pytest.mark.parametrize(
    "host", ["1.2.3.4.5", "256.1", "08.1", "1.2.3.256", "4294967296", "0xg", "", "a.1", "1..2"]
)
def test_what_is_no_address_is_a_name(host: str) -> None:
    assert parse_address(host) is None
