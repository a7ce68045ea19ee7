"""From stacks that were seen to where a round's time goes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

# The first that fits anywhere in a stack names it; the innermost frame is the stack's first place.
_KINDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("checkpoints", ("checkpoint:save", "durable:write", "whole_file:", "asked:write")),
    ("journal", ("journal:", "kept_words:", "ledger:")),
    ("audit log", ("auditing:", "audit_log:")),
    ("training", ("client/training:", "site:_sums", "evaluation:metric_sums")),
    ("masks", ("masks:", "key_stream:", "encoding:", "secure_hospital:", "secure_aggregator:")),
    (
        "hashing and packing",
        ("get_object_id", "deflate", "inflate_object_from_contents", "fleet:pack", "fleet:unpack",
         "messages_under_way:take", "wire:", "wire_terms:", "fleet:model", "fleet:digest"),
    ),
    ("HTTP", ("httpcore/", "httpx/", "_sync/http11", "protobuf/client", "fleet:_call",
              "bounded_line:", "ssl:",
              "inflatable_utils:pull_objects", "inflatable_utils:push_object", "fleet:_each",
              "server/pulling:")),
    ("the worker at work", ("client/worker:ask",)),
    ("polling", ("exchange:_pause", "client/daemon:_serve")),
)  # fmt: skip
_WAITS = ("threading:wait", "selectors:select", "connection:_recv", "queue:get", "thread:_worker")


def where_time_goes(found: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Shares of the time of the main thread of each part of which a round is made.

    Args:
        found: From `rounds_ours.our_rounds`, with samples. All daemons count as one, and all
            workers.

    Raises:
        RuntimeError: A part was not seen once.
    """
    shares = {}
    for part in ("ServerApp", "daemon", "worker"):
        stacks = found["stacks"].get(part, {})
        seen: dict[str, float] = {}
        for stack, times in stacks.items():
            kind, *places = stack.split(";")
            if kind == "main":
                name = kind_of(places)
                seen[name] = seen.get(name, 0) + times
        if not seen:
            raise RuntimeError(f"the {part} was not seen once: time more rounds")
        whole = sum(seen.values())
        shares[part] = {k: round(v / whole, 3) for k, v in sorted(seen.items())}
    return shares


def kind_of(places: Iterable[str]) -> str:
    """What a stack is about."""
    stack = list(places)
    for name, marks in _KINDS:
        if any(mark in place for place in stack for mark in marks):
            return name
    return "waiting" if any(w in stack[0] for w in _WAITS) else "other"
