"""Who counts as having approved: those who said so, about this study, under the newest roster."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from flwr.app import Error, Message
from flwr.common.constant import ErrorCode

from fedward.server import offering
from fedward.server.offering import SignedOffer
from fedward.study.errors import RefusedError
from fedward.study.messages import Advertised, Answer, Considered, OfferQuery, Refusal
from fedward.study.study import Study
from fedward.study.wire import pack_answer, unpack_offer_query
from tests.secure_sites import study_of
from tests.server.conftest import PostBox

YES, NO = {"approved": True}, {"approved": False}
LOST = "lost"


class Hospitals:
    """Nodes 1, 2, ... that answer an offer as a test tells them."""

    def __init__(self, study: Study, *answers: Answer | str) -> None:
        self.answers: dict[int, Answer | str] = dict(enumerate(answers, start=1))
        self.offered: list[tuple[int, OfferQuery]] = []
        self.roster = b"roster 1"
        self.offer = SignedOffer(
            study,
            b"as the coordinator signed it",
            PostBox(self._answer, nodes=len(answers)),
            run="run-1",
            roster=lambda: self.roster,
        )

    def approving(self, *nodes: int) -> list[int]:
        return self.offer.approving(nodes or tuple(self.answers))

    @property
    def asked(self) -> list[int]:
        """Who was asked since the last look."""
        found = [node for node, _ in self.offered]
        self.offered.clear()
        return sorted(found)

    def _answer(self, message: Message) -> list[Message]:
        node = message.metadata.dst_node_id
        self.offered.append((node, unpack_offer_query(message.content)))
        answer = self.answers[node]
        if isinstance(answer, str):
            error = Error(ErrorCode.NODE_UNAVAILABLE, "it is not there")
            return [Message(error, reply_to=message)]
        return [Message(pack_answer(answer), reply_to=message)]


def said(name: str, how: Mapping[str, bool]) -> Considered:
    return Considered(name, **how)


@pytest.fixture
def study() -> Study:
    return study_of()


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has not approved is asked each time."""
    monkeypatch.setattr(offering, "_AGAIN", 0.0)


def test_everybody_is_given_the_signed_study_and_the_roster(study: Study) -> None:
    found = Hospitals(study, said("a", YES), said("b", NO))

    assert found.approving() == [1]
    query = OfferQuery(study.digest(), "run-1", b"as the coordinator signed it", b"roster 1")
    assert sorted(node for node, _ in found.offered) == [1, 2]
    assert all(offered == query for _, offered in found.offered)
    assert found.offer.waiting_for == "not approved yet at b"


@pytest.mark.usefixtures("at_once")
def test_who_has_approved_is_not_asked_again_and_the_others_are(study: Study) -> None:
    found = Hospitals(study, said("a", YES), said("b", NO))
    found.approving()
    assert found.asked == [1, 2]

    found.answers[2] = said("b", YES)

    assert found.approving() == [1, 2]
    assert found.asked == [2]
    assert found.approving() == [1, 2]
    assert found.asked == []
    assert found.offer.waiting_for == ""


def test_who_has_not_approved_is_left_in_peace_for_a_while(study: Study) -> None:
    found = Hospitals(study, said("a", NO))
    found.approving()
    assert found.asked == [1]

    assert found.approving() == []
    assert found.asked == []


def test_a_newer_roster_is_offered_to_everybody_who_has_approved_before_too(study: Study) -> None:
    found = Hospitals(study, said("a", YES), said("b", NO))
    found.approving()
    found.asked  # noqa: B018 - forgotten

    found.roster = b"roster 2"
    found.answers[1] = said("a", NO)

    assert found.approving() == []
    assert {query.roster for _, query in found.offered} == {b"roster 2"}
    assert found.asked == [1, 2]


@pytest.mark.usefixtures("at_once")
def test_who_was_away_is_asked_again(study: Study) -> None:
    """It may have withdrawn the approval meanwhile."""
    found = Hospitals(study, said("a", YES), said("b", YES))
    found.approving()
    assert found.approving(2) == [2]
    found.asked  # noqa: B018 - forgotten

    found.answers[1] = said("a", NO)

    assert found.approving() == [2]
    assert found.asked == [1]


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(
    "answer",
    [Refusal("a", RefusedError.__name__, "no such consortium", "ask"), Advertised("a", b"x"), LOST],
    ids=["refused", "another answer", "lost"],
)
def test_whatever_else_comes_is_no_approval_and_harms_nobody(
    study: Study, answer: Answer | str
) -> None:
    found = Hospitals(study, answer, said("b", YES))

    assert found.approving() == [2]
    if isinstance(answer, Refusal):
        assert found.offer.waiting_for == "a: no such consortium"
    found.answers[1] = said("a", YES)
    assert found.approving() == [1, 2]
    assert found.offer.waiting_for == ""
