"""Addresses: one form for each, and nothing that two programs could read differently."""

from __future__ import annotations

import pytest

from fedward.privacy.address import is_host, split_address


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("fedward.example.org:9443", ("fedward.example.org", 9443)),
        ("localhost:1", ("localhost", 1)),
        ("10.0.0.7:65535", ("10.0.0.7", 65535)),
        ("[::1]:443", ("::1", 443)),
    ],
)
def test_host_and_port(text: str, parts: tuple[str, int]) -> None:
    assert split_address(text) == parts


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            ":",
            "host",
            "host:",
            ":443",
            "host:0",
            "host:65536",
            "host:01",
            "host:+1",
            "host: 1",
        ),
        *("host:٣", "::1:443", "[::1]", "[host]:1", "[10.0.0.1]:1", "https://host:1"),
        *(
            "host:1/a",
            "user@host:1",
            "HOST:1",
            "a..b:1",
            "-a:1",
            "a-:1",
            "a_b:1",
            "ä:1",
            "host.:1",
            "a b:1",
        ),
        *("256.1.1.1:1", "1.2.3:1", "010.0.0.1:1", "[fe80::1%eth0]:1", "host:1\n", "*.a:1"),
        "a" * 64 + ":1",
        ".".join(["a" * 60] * 5) + ":1",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="host:port"):
        split_address(text)


@pytest.mark.parametrize("text", ["a", "a-b.c1", "127.0.0.1", "::1", "2001:db8::7"])
def test_hosts(text: str) -> None:
    assert is_host(text)


@pytest.mark.parametrize("text", ["", "*.example.org", "::01", "2001:DB8::7", "a\0", "127.1"])
def test_no_hosts(text: str) -> None:
    assert not is_host(text)
