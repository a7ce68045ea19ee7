"""A hospital's whole service: the daemon with its audit log, control socket, metrics and log."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from fedward.client.auditing import LOG, Auditing
from fedward.client.control import ControlServer
from fedward.client.daemon import make_daemon
from fedward.client.happenings import Happening, Listener
from fedward.client.hospital import HospitalFile, read_hospital
from fedward.client.membership import consortium_of
from fedward.client.metrics import Metrics, MetricsPage
from fedward.client.standing import Observer
from fedward.privacy.audit_log import AuditLog
from fedward.privacy.identity import Identity

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def serve(hospital_path: Path, *, log: Listener) -> None:
    """Serve the aggregator until a signal or the control socket ends it; for the main thread.

    Args:
        hospital_path: The `hospital.toml`.
        log: Told of everything, to write it down.

    Raises:
        OptionError: The hospital is a pretended one.
        FedwardError: Something that is needed cannot be used, another daemon runs, or the audit
            log cannot be written.
    """
    path = hospital_path.resolve()
    hospital, folder = read_hospital(path), path.parent
    state = folder / hospital.state
    listeners: list[Listener] = []

    def tell(happening: Happening) -> None:
        for listener in listeners:
            listener(happening)

    daemon = make_daemon(path, [tell])
    observer = Observer()
    with ExitStack() as kept:
        control = kept.enter_context(closing(ControlServer(path, observer, daemon.stop)))
        audit = kept.enter_context(closing(open_audit_log(hospital, folder)))
        listeners += [Auditing(audit, hospital.data.name, state), observer, control, log]
        if hospital.daemon.metrics_port is not None:
            metrics = Metrics(state)
            listeners.append(metrics)
            kept.enter_context(closing(MetricsPage(metrics, hospital.daemon.metrics_port)))
        kept.enter_context(_on_signals(daemon.stop))
        control.start()
        daemon.run()


def open_audit_log(hospital: HospitalFile, folder: Path) -> AuditLog:
    """The hospital's audit log, for writing.

    Args:
        hospital: The hospital's file.
        folder: The folder of that file.

    Raises:
        BrokenLog: It was changed.
        DataError: It cannot be used, or the identity cannot be read.
        RefusedError: The hospital is in no consortium, and has no identity.
    """
    identity = Identity.load(folder / consortium_of(hospital).identity)
    return AuditLog(folder / hospital.state / LOG, hospital.name, identity)


@contextmanager
def _on_signals(stop: Callable[[], None]) -> Iterator[None]:
    before = {number: signal.signal(number, lambda *_: stop()) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
