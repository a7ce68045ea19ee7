"""Where an aggregator is reached: `host:port`, the host as a name or as an IP address."""

from __future__ import annotations

import ipaddress
import re

_LABEL = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)")
_PORT = re.compile(r"[1-9][0-9]{0,4}")


def is_host(text: str) -> bool:
    """Whether this is an IP address in its usual form, or a name in lower case, dots between."""
    if is_ip(text):
        return True
    labels = text.split(".")
    named = len(text) <= 253 and all(_LABEL.fullmatch(label) for label in labels)
    return named and not labels[-1].isdigit()  # 1.2.3 and 256.1.1.1 are mistyped addresses


def is_ip(text: str) -> bool:
    """Whether this is an IP address in its usual form, without a zone."""
    try:
        return str(ipaddress.ip_address(text)) == text and "%" not in text
    except ValueError:
        return False


def split_address(text: str) -> tuple[str, int]:
    """Host and port of `host:port`; an IPv6 address stands in brackets, `[::1]:443`.

    Raises:
        ValueError: It is no such address.
    """
    host, _, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    bare = host[1:-1] if bracketed else host
    if is_host(bare) and bracketed == (":" in bare) and _PORT.fullmatch(port) and int(port) < 2**16:
        return bare, int(port)
    raise ValueError(f"host:port is wanted, as in fedward.example.org:9443, not {text!r:.80}")
