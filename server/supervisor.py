"""The long-lived process of `fedward aggregator start`: it keeps what was asked for true.

Every look compares what should be with what is: a SuperLink that answers, the roster's hospitals
registered and no others, a process for each run that is to run. So it does not matter in which
order things happened, or that one of them was killed.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TextIO

from fedward.server.aggregator import Aggregator
from fedward.server.diary import Diary, Overheard
from fedward.server.doorkeeper import Doorkeeper, caller_names
from fedward.server.durable import write_json
from fedward.server.gate import Gate, Route, load_certificate, public_tls
from fedward.server.gate_thread import GateThread
from fedward.server.gauges import Gauges
from fedward.server.page.overview import last_seen
from fedward.server.run_registry import BY_ITSELF, RunFolder, RunRegistry
from fedward.server.state_lock import only_one
from fedward.server.superlink import SuperLink
from fedward.server.superlink_control import SuperLinkSilent
from fedward.study.errors import FedwardError, ServiceError

Stamp = tuple[int, int] | None
_WARN_DAYS = 30
_RENEW = "send request.csr to the coordinator again, then: fedward aggregator enroll --answer FILE"
_LEAST_PROBES = 3  # a machine that slept has not asked, however long it took


@dataclass(frozen=True)
class Pace:
    """How often the supervisor looks, and how long it waits.

    Attributes:
        look: Seconds between two looks.
        nodes: Seconds between two questions who is there.
        runs: Seconds between two questions how a run stands.
        first_wait: Seconds before a SuperLink that died is started again; doubled each time.
        longest_wait: Seconds that this grows to.
        deaths: How often a run's process may die without getting on before the run is paused for
            a person.
        stop: Seconds that a run has to stop by itself.
        probe: Seconds between two questions whether the SuperLink answers.
        silent: Seconds without an answer, and no fewer than three questions, after which a
            SuperLink counts as hung: it is killed, and another one is started. One question waits
            for a third of that: one that is slow is not one that hangs.
    """

    look: float = 0.5
    nodes: float = 5.0
    runs: float = 2.0
    first_wait: float = 1.0
    longest_wait: float = 60.0
    deaths: int = 3
    stop: float = 60.0
    probe: float = 5.0
    silent: float = 60.0


class Supervisor:
    """An aggregator at work.

    Args:
        aggregator: Enrolled.
        pace: How often it looks.
        stream: Where its log goes beside the file.

    Raises:
        FedwardError: The roster, the certificate or the Flower that is installed cannot be used.
    """

    def __init__(
        self, aggregator: Aggregator, *, pace: Pace | None = None, stream: TextIO | None = None
    ) -> None:
        aggregator.roster()
        self._certificate_ends = aggregator.check_certificate()
        aggregator.tracking.trackers()
        self._aggregator = aggregator
        self._pace = pace or Pace()
        self._state = aggregator.state
        self._runs = RunRegistry(self._state / "runs")
        self._diary = Diary(self._state / "log.jsonl", stream)
        self._gauges = Gauges()
        self._tls = public_tls(aggregator.certificate_path, aggregator.key_path)
        self._gate = Gate(self._tls, listener=self._gauges.passed)
        self._numbers: dict[str, int] = {}
        self._taken: set[str] = set()
        self._deaths: dict[str, tuple[int, int]] = {}
        self._stop_since: dict[str, float] = {}
        self._known: dict[str, Stamp] = {}
        self._hospitals: dict[str, bool] = {}
        self._seen = last_seen(self._state)
        self._said: dict[str, str] = {}
        self._roster_version = 0
        self._registered: frozenset[bytes] = frozenset()
        self._due: dict[str, float] = {}
        self._heard = 0.0  # when the SuperLink last answered
        self._unheard = 0  # how often it has not answered since
        self._wait = 0.0
        self._port = 0

    def run(self, stop: threading.Event) -> None:
        """Work until told to stop; runs then go on at the next start.

        Raises:
            ServiceError: The folder is in use, or a port is taken.
        """
        with only_one(self._state), contextlib.ExitStack() as open_things:
            open_things.callback(self._diary.close)
            heard = Overheard(self._state / "superlink.log")
            open_things.callback(heard.close)
            file = self._aggregator.file
            if file.metrics is not None:
                self._gauges.serve(file.metrics)
            gate = open_things.enter_context(GateThread(self._gate, file.listen, file.port))
            self._port = gate.port
            link = SuperLink(
                self._state / "superlink",
                output=heard.sink,
                port=file.superlink,
                on_disk=file.messages == "disk",
            )
            open_things.callback(link.stop)
            self._diary.tell("started", port=gate.port, pid=os.getpid())
            if file.page is not None:
                self._show_page(open_things, file.page.port)
            while not stop.is_set():
                self._look(link, gate)
                stop.wait(self._pace.look)
            gate.lead_to(None)
            self._diary.tell("stopping")
            self._write_status(link, running=False)

    def _show_page(self, open_things: contextlib.ExitStack, port: int) -> None:
        """A page that cannot be shown is told, and the service works all the same."""
        from fedward.server.page.application import application  # who shows no page needs none
        from fedward.web.served_page import ServedPage

        with self._told("page"):
            page = ServedPage(application(self._aggregator), self._state, port=port, name="hub")
            open_things.enter_context(page)
            self._diary.tell("page", port=page.port, address=str(page.address_file))

    def _look(self, link: SuperLink, gate: GateThread) -> None:
        if not link.alive:
            with self._told("superlink"):
                self._revive(link, gate)
        if link.alive:
            with self._told("certificate"):
                self._keep_certificate()
        if link.alive and self._answers(link):
            with self._told("roster"):
                self._keep_roster(link, gate)
            with self._told("hospitals"):
                self._ask_who_is_there(link)
            with self._told("runs"):
                self._keep_runs(link)
        with contextlib.suppress(OSError):
            self._write_status(link, running=True)

    @contextlib.contextmanager
    def _told(self, duty: str) -> Iterator[None]:
        """Trouble with one duty is told, and the others are done all the same."""
        try:
            yield
        except FedwardError as error:
            self._say_once(duty, error.line())
        except OSError as error:  # a full disk passes; the service stays
            self._say_once(duty, f"{type(error).__name__}: {error}")

    # --- The SuperLink ----------------------------------------------------------------------------

    def _revive(self, link: SuperLink, gate: GateThread) -> None:
        gate.lead_to(None)
        self._gauges.superlink.set(0)
        if not self._is_due("superlink"):
            return
        if self._wait:
            self._gauges.restarts.inc()
            self._diary.tell("superlink restarts")
        self._wait = min(2 * self._wait or self._pace.first_wait, self._pace.longest_wait)
        self._due["superlink"] = time.monotonic() + self._wait
        link.start()
        try:
            self._stop_earlier_runs(link)
        except FedwardError:
            link.stop()  # or it would go on with those runs, and the gate would stay shut
            raise
        self._numbers.clear()
        self._taken.clear()
        self._known.pop("roster", None)
        self._heard, self._unheard = time.monotonic(), 0
        self._gauges.superlink.set(1)
        self._diary.tell("superlink started", port=link.port, pid=link.pid)

    def _stop_earlier_runs(self, link: SuperLink) -> None:
        """Those of an earlier process: each run is begun anew."""
        for number, (state, _) in link.control.runs().items():
            if state in {"waiting", "running"}:
                link.control.stop_run(number)

    def _answers(self, link: SuperLink) -> bool:
        """Whether the SuperLink answers; one that is silent for too long is killed.

        A process that hangs is there for the system, and nothing of it is for hospitals and runs.
        Nothing else is asked of one that is silent: each question would wait for long.
        """
        if not self._is_due("probe"):
            return self._unheard == 0
        answers = link.answers(self._pace.silent / _LEAST_PROBES)
        self._gauges.superlink.set(answers)
        self._due["probe"] = time.monotonic() + self._pace.probe
        if answers:
            self._heard, self._unheard = time.monotonic(), 0
            return True
        self._unheard += 1
        silent = time.monotonic() - self._heard
        if silent >= self._pace.silent and self._unheard >= _LEAST_PROBES:
            self._diary.tell("superlink hangs", seconds=int(silent), pid=link.pid)
            link.kill()
        return False

    # --- Hospitals --------------------------------------------------------------------------------

    def _keep_roster(self, link: SuperLink, gate: GateThread) -> None:
        """Register the roster's hospitals and no others, whenever the roster's file changed."""
        stamp = _stamp(self._aggregator.roster_path)
        if self._known.get("roster") == stamp and "roster" in self._known:
            return
        roster = self._aggregator.roster()
        if roster.version < self._roster_version:
            raise ServiceError(
                f"roster {roster.version} was put in the place of roster {self._roster_version}",
                todo="install the newest roster: fedward aggregator roster FILE",
                where=str(self._aggregator.roster_path),
            )
        keys = dict(roster.transports)
        route = Route(link.fleet_address, link.certificate, Doorkeeper(keys.values()))
        if gate.leads:  # who was removed is out at once, whatever follows
            unknown = caller_names(keys.values()) - self._registered
            gate.lead_to(replace(route, not_yet=unknown))
        self._register(link, keys)
        self._registered = caller_names(keys.values())
        gate.lead_to(route)  # not before: a stock SuperNode ends for good where it is not known
        self._runs.set_roster(self._aggregator.roster_path.read_bytes())
        self._roster_version = roster.version
        self._known["roster"] = stamp
        self._due.pop("nodes", None)
        self._gauges.roster.set(roster.version)
        self._gauges.members.set(len(roster.transports))
        self._diary.tell("roster", version=roster.version, members=len(roster.members))

    def _register(self, link: SuperLink, wanted: dict[str, bytes]) -> None:
        """Let the SuperLink know these keys and no others; one that it refuses stays unknown to it.

        Raises:
            SuperLinkSilent: It does not answer; all of it is to be done again.
        """
        there = {node.key: node for node in link.control.nodes()}
        for key, node in there.items():
            if key not in wanted.values():
                link.control.remove(node.number)
                self._diary.tell("hospital removed", hospital=node.name)
        for name, key in wanted.items():
            if key in there:
                continue
            try:
                link.control.register(name, key)
                self._diary.tell("hospital registered", hospital=name)
            except SuperLinkSilent:
                raise
            except ServiceError as error:  # one bad key must not keep the others out
                self._diary.tell("hospital refused", hospital=name, why=error.line())

    def _ask_who_is_there(self, link: SuperLink) -> None:
        if not self._is_due("nodes"):
            return
        self._due["nodes"] = time.monotonic() + self._pace.nodes
        self._hospitals = {node.name: node.online for node in link.control.nodes()}
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._seen |= {name: now for name, online in self._hospitals.items() if online}
        self._gauges.online.set(sum(self._hospitals.values()))
        self._gauges.callers.set(self._gate.connections)
        self._wait = self._pace.first_wait  # it answers: the next death is a first one again

    def _keep_certificate(self) -> None:
        """Use a renewed certificate for the connections to come; warn before one ends."""
        path = self._aggregator.certificate_path
        stamp = _stamp(path)
        if self._known.setdefault("certificate", stamp) != stamp:
            self._certificate_ends = self._aggregator.check_certificate()
            load_certificate(self._tls, path, self._aggregator.key_path)
            self._known["certificate"] = stamp  # last: what was refused is looked at again
            self._due.pop("certificate", None)
            self._diary.tell("certificate renewed")
        days = (self._certificate_ends - datetime.now(UTC)) / timedelta(days=1)
        self._gauges.certificate.set(days)
        if days < _WARN_DAYS and self._is_due("certificate"):
            self._due["certificate"] = time.monotonic() + 86400
            ends, todo = f"{self._certificate_ends:%Y-%m-%d %H:%M} UTC", _RENEW
            self._diary.tell("certificate ends", on=ends, days=int(days), todo=todo)

    # --- Runs -------------------------------------------------------------------------------------

    def _keep_runs(self, link: SuperLink) -> None:
        records = self._runs.list(lambda error: self._say_once(error.line(), error.line()))
        self._gauges.count_runs(record.state for record in records)
        for record in records:
            with self._told(f"run {record.name}"):
                run = self._runs.get(record.name)
                if record.name in self._numbers:
                    self._follow(link, run)
                elif record.state in BY_ITSELF:
                    self._begin(link, run)

    def _begin(self, link: SuperLink, run: RunFolder) -> None:
        name = run.record.name
        if run.stop_asked:
            run.mark("stopped", "as asked")
            return
        if not self._is_due(f"begin {name}"):
            return
        patience, models = self._aggregator.file.runs, self._aggregator.models
        self._numbers[name] = link.control.start_run(
            {
                "folder": str(run.folder.absolute()),
                "repeats": patience.repeats,
                "wait_seconds": patience.wait_seconds,
                "models": "" if models is None else str(models),
                "tracking": self._aggregator.tracking.document(),
            }
        )
        self._diary.tell("run started", run=name, number=str(self._numbers[name]))

    def _follow(self, link: SuperLink, run: RunFolder) -> None:
        name = run.record.name
        number = self._numbers[name]
        self._insist_on_stop(link, run, number)
        if run.is_taken:
            self._taken.add(name)
        elif name in self._taken and run.record.state in BY_ITSELF:
            link.control.stop_run(number)  # its process was killed: Flower would notice in a minute
            self._due.pop(f"run {name}", None)
        if not self._is_due(f"run {name}"):
            return
        self._due[f"run {name}"] = time.monotonic() + self._pace.runs
        state, details = link.control.run_state(number)
        if state in {"waiting", "running"}:
            return
        del self._numbers[name]
        self._taken.discard(name)
        record = run.record
        self._diary.tell("run ended", run=name, how=state, state=record.state, why=details[:500])
        if record.state not in BY_ITSELF:
            self._deaths.pop(name, None)
            self._due.pop(f"begin {name}", None)
        elif run.stop_asked:
            run.mark("stopped", "as asked")
        else:
            self._count_death(run, details or f"its process ended ({state})")

    def _count_death(self, run: RunFolder, why: str) -> None:
        """A run's process ended without saying so: it is begun again, each time a little later.

        A run that gets on is never given up; of one that does not, a person shall look at it.
        """
        name, at = run.record.name, run.exchanges
        before, there = self._deaths.get(name, (0, at))
        deaths = before + 1 if there == at else 1
        if deaths >= self._pace.deaths:
            self._deaths.pop(name, None)
            self._due.pop(f"begin {name}", None)
            why = " ".join(why.split())[:400]
            run.mark("paused", f"its process died {deaths} times, the last time with: {why}")
            return
        self._deaths[name] = deaths, at
        wait = min(self._pace.first_wait * 2 ** (deaths - 1), self._pace.longest_wait)
        self._due[f"begin {name}"] = time.monotonic() + wait

    def _insist_on_stop(self, link: SuperLink, run: RunFolder, number: int) -> None:
        name = run.record.name
        if not run.stop_asked:
            self._stop_since.pop(name, None)
        elif time.monotonic() - self._stop_since.setdefault(name, time.monotonic()) > (
            self._pace.stop
        ):
            link.control.stop_run(number)
            self._due.pop(f"run {name}", None)

    # --- What is told -----------------------------------------------------------------------------

    def _is_due(self, what: str) -> bool:
        return time.monotonic() >= self._due.get(what, 0.0)

    def _say_once(self, about: str, what: str, *, event: str = "error") -> None:
        """The same trouble at every look would fill the log."""
        if self._said.get(about) != what or self._is_due(f"said {about}"):
            self._diary.tell(event, what=what)
            self._due[f"said {about}"] = time.monotonic() + 60
        self._said[about] = what

    def _write_status(self, link: SuperLink, *, running: bool) -> None:
        if running and not self._is_due("status"):
            return
        self._due["status"] = time.monotonic() + 1
        answers = link.alive and self._unheard == 0
        status: dict[str, Any] = {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "running": running,
            "pid": os.getpid(),
            "port": self._port,
            "superlink": {"alive": running and answers, "pid": link.pid, "port": link.port},
            "roster": self._roster_version,
            "hospitals": self._hospitals,
            "seen": {name: at for name, at in self._seen.items() if name in self._hospitals},
        }
        write_json(status, self._state / "status.json")


def _stamp(path: Path) -> Stamp:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino
