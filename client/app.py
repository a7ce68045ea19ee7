"""The hospital's Flower app: messages in, messages out; the work is done by `Site`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedward.client.current import current_site
from fedward.client.hospital import read_hospital
from fedward.client.machine import limit_process
from fedward.client.site import Site
from fedward.study.errors import OptionError
from fedward.study.messages import Query, Request
from fedward.study.wire import (
    pack_answer,
    unpack_advertise_query,
    unpack_evaluate_request,
    unpack_measure_request,
    unpack_offer_query,
    unpack_train_request,
    unpack_unmask_query,
)

Unpack = Callable[[RecordDict], Request | Query]


def make_app(site_of: Callable[[Context], Site]) -> ClientApp:
    """A ClientApp that lets the site of a context answer."""
    client_app = ClientApp()

    def reply(message: Message, context: Context, unpack: Unpack) -> Message:
        answer = site_of(context).answer(lambda: unpack(message.content))
        return Message(pack_answer(answer), reply_to=message)

    @client_app.query("offer")
    def offer(message: Message, context: Context) -> Message:
        return reply(message, context, unpack_offer_query)

    @client_app.query("advertise")
    def advertise(message: Message, context: Context) -> Message:
        return reply(message, context, unpack_advertise_query)

    @client_app.query("measure")
    def measure(message: Message, context: Context) -> Message:
        return reply(message, context, unpack_measure_request)

    @client_app.train()
    def train(message: Message, context: Context) -> Message:
        return reply(message, context, unpack_train_request)

    @client_app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return reply(message, context, unpack_evaluate_request)

    @client_app.query("unmask")
    def unmask(message: Message, context: Context) -> Message:
        return reply(message, context, unpack_unmask_query)

    return client_app


def hospital_path(context: Context) -> Path:
    """Which hospital this node is.

    A real node says it itself (`--node-config 'hospital="/etc/fedward/hospital.toml"'`). In
    Flower's simulation, where a node has only a number, it is the folder with that number below
    `hospitals` of the run's configuration.

    Raises:
        OptionError: Neither is set.
    """
    own = context.node_config.get("hospital")
    if own:
        return Path(str(own))
    number, folder = context.node_config.get("partition-id"), context.run_config.get("hospitals")
    if number is None or not folder:
        raise OptionError(
            "this node does not know which hospital it is",
            todo="start it with --node-config 'hospital=\"/path/to/hospital.toml\"'",
        )
    files = sorted(Path(str(folder)).glob("*/hospital.toml"))
    if int(number) >= len(files):
        raise OptionError(
            f"{len(files)} hospitals, but this is node {number}",
            todo="start as many nodes as `fedward split` made hospitals",
            where=str(folder),
        )
    return files[int(number)]


@functools.lru_cache(maxsize=4096)
def open_site(path: Path) -> Site:
    """The hospital of a file, read once: for pretended ones, which nobody's staff change."""
    hospital = read_hospital(path)
    limit_process(hospital)
    return Site(hospital, path.parent)


def site_of(context: Context) -> Site:
    """The hospital of a node.

    Raises:
        OptionError: The node knows no hospital, or is a real one whose noise would have a seed.
        InputError: The hospital's file cannot be used.
    """
    path, own = hospital_path(context), context.node_config
    real = "hospital" in own and not own.get("simulated")
    return current_site(path).now() if real else open_site(path)


app = make_app(site_of)
