"""Who is let in, and when: the supervisor keeps the gate and the SuperLink to the roster."""

from __future__ import annotations

import h11
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from fedward.privacy.identity import Identity
from fedward.privacy.roster import Roster
from fedward.server.aggregator import Aggregator
from fedward.server.gate import Route, verdict
from fedward.server.http_sides import Limits
from fedward.server.superlink_control import SuperLinkSilent
from fedward.study.errors import ServiceError
from tests.server.flower_hospital import public_der, signed_time, transport_key
from tests.server.supervised import Post


class Door:
    """A gate that leads nowhere at first."""

    def __init__(self) -> None:
        self.route: Route | None = None

    @property
    def leads(self) -> bool:
        return self.route is not None

    def lead_to(self, route: Route | None) -> None:
        self.route = route

    def answer(self, key: ec.EllipticCurvePrivateKey) -> int:
        """What a hospital is told: 503, to try again; 401, that it may not; or what is behind."""
        if self.route is None:
            return 503
        headers = [(b"host", b"hub"), (b"content-length", b"0"), *signed_time(key).items()]
        asked = h11.Request(method="POST", target="/v1/fleet/pull-messages", headers=headers)
        return verdict(asked, self.route, Limits())[0] or 200


class Admission:
    """A roster that changes, and what each hospital is told at the gate."""

    def __init__(self, post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
        self.keys: dict[str, ec.EllipticCurvePrivateKey] = {}
        self.registered: list[tuple[str, int]] = []
        self._post, self._door = post, Door()
        self._patch = monkeypatch
        post.link.asked = lambda name: self.registered.append((name, self.told()[name]))

    def install(self, version: int, *names: str) -> dict[str, int]:
        self.keys.update({name: transport_key() for name in names if name not in self.keys})
        members = {name: Identity.generate().public for name in names}
        transports = {name: public_der(self.keys[name]) for name in names}
        roster = Roster(version, members, transports)
        self._patch.setattr(Aggregator, "roster", lambda _: roster)
        self._post.supervisor._known.pop("roster", None)
        return self.look()

    def look(self) -> dict[str, int]:
        self._post.supervisor._look(self._post.link, self._door)
        return self.told()

    def told(self) -> dict[str, int]:
        return {name: self._door.answer(key) for name, key in self.keys.items()}


@pytest.fixture
def admission(post: Post, monkeypatch: pytest.MonkeyPatch) -> Admission:
    return Admission(post, monkeypatch)


def test_a_hospital_is_let_in_once_the_superlink_knows_it(post: Post, admission: Admission) -> None:
    """Flower's own SuperNode tries again after 503, and ends for good where it is not known."""
    post.link.down = True
    assert admission.install(2, "Stays", "Leaves") == {"Stays": 503, "Leaves": 503}
    post.link.down = False
    assert admission.look() == {"Stays": 200, "Leaves": 200}
    assert admission.registered == [("Stays", 503), ("Leaves", 503)]

    # Who leaves is shut out at once, though the SuperLink hears nothing; who comes has to wait.
    post.link.down = True
    assert admission.install(3, "Stays", "Comes") == {"Stays": 200, "Leaves": 401, "Comes": 503}
    assert admission.look() == {"Stays": 200, "Leaves": 401, "Comes": 503}
    post.link.down = False
    assert admission.look() == {"Stays": 200, "Leaves": 401, "Comes": 200}
    assert admission.registered[2:] == [("Comes", 503)]
    assert [node.name for node in post.link.nodes()] == ["Stays", "Comes"]


def test_a_hospital_of_which_the_superlink_says_nothing_is_registered_later(
    post: Post, admission: Admission
) -> None:
    silent = {"B"}

    def asked(name: str) -> None:
        if name in silent:
            silent.discard(name)
            raise SuperLinkSilent("it does not answer RegisterNode")

    post.link.asked = asked
    assert set(admission.install(2, "A", "B", "C").values()) == {503}
    assert set(admission.look().values()) == {200}
    assert [node.name for node in post.link.nodes()] == ["A", "B", "C"]


def test_a_hospital_that_is_refused_keeps_no_other_out(post: Post, admission: Admission) -> None:
    def asked(name: str) -> None:
        if name == "B":
            raise ServiceError("the key is in use")

    post.link.asked = asked
    assert set(admission.install(2, "A", "B", "C").values()) == {200}  # B hears it from behind
    assert [node.name for node in post.link.nodes()] == ["A", "C"]
    assert "the key is in use" in post.log.getvalue()


def test_a_superlink_that_cannot_be_asked_for_its_runs_is_started_anew(
    post: Post, admission: Admission
) -> None:
    """What is done once after a start would not be done, and the gate would stay shut."""
    assert admission.install(2, "A") == {"A": 200}
    post.link.die()
    post.link.runs_are_told = False
    assert admission.look() == {"A": 503}
    assert not post.link.alive
    post.link.runs_are_told = True
    assert admission.look() == {"A": 200}
    assert post.link.starts == 2
