"""The aggregator's page says what the files of a real run say."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from fedward.models.registry import settled
from fedward.privacy.enrolment import fingerprint
from fedward.privacy.public_file import write_public
from fedward.privacy.signed_study import sign_study
from fedward.server.aggregator import Aggregator, found_aggregator, write_aggregator
from fedward.server.durable import write_json
from fedward.server.events import Answered, HospitalsAwaited, Refused, RoundFinished, RoundStarted
from fedward.server.page.application import application
from fedward.server.page.curves import can_be_drawn
from fedward.server.page.overview import overview_of
from fedward.server.page.run_view import stage_of, view_of
from fedward.server.page.told_events import failures, newest_events
from fedward.server.registered_run import run_registered
from fedward.server.run_registry import RunFolder, RunRecord, RunRegistry, State, line_of
from fedward.study.messages import Refusal
from fedward.web.served_page import ServedPage
from tests.server.cut_off import Watched, private_study, sites_of

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Aggregator:
    """An aggregator with one finished run of four hospitals."""
    folder = tmp_path_factory.mktemp("hub")
    study = settled(private_study(study={"name": "told", "title": f"A study {HOSTILE}"}))
    sites = sites_of(folder / "s", study)
    made = found_aggregator(folder / "a" / "aggregator.toml", name="Hub", host="hub.org", port=9443)
    told = made.file.model_copy(update={"coordinator": sites.coordinator.public.hex()})
    write_aggregator(told, made.path)
    found = Aggregator(made.path)
    roster = (next(iter(sites.files.values())).parent.parent / "roster.json").read_bytes()
    write_public(found.roster_path, roster)
    registry = RunRegistry(found.state / "runs")
    registry.set_roster(roster)
    run = registry.create(study, sign_study(study, sites.coordinator), seed=5, name="run-1")
    with Watched(list(sites.files.values())) as grid:
        run_registered(run.folder, grid, lambda _: None)
    status = {
        "superlink": {"alive": True},
        "hospitals": {"a": True, "b": False},
        "seen": {"a": "2026-11-21T10:00:00+00:00"},
    }
    write_json(status, found.state / "status.json")
    assert fingerprint(found.coordinator)
    return found


@pytest.fixture
def run(hub: Aggregator) -> RunFolder:
    return RunRegistry(hub.state / "runs").get("run-1")


@pytest.fixture
def web(hub: Aggregator) -> Iterator[httpx.Client]:
    with (
        ServedPage(application(hub), hub.state, port=0, name="hub") as page,
        httpx.Client(base_url=f"http://127.0.0.1:{page.port}", trust_env=False) as client,
    ):
        client.get(page.address)
        yield client


def text_of(page: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", page).split())


def test_a_finished_run_is_told_with_its_figures_and_files(
    web: httpx.Client, run: RunFolder
) -> None:
    answer = web.get("/")
    assert answer.status_code == 200
    text = text_of(answer.text)
    federation = json.loads((run.folder / "federation.json").read_bytes())
    assert f"AUC, test part {federation['test']['auc']:.3f}" in text
    assert "Finished." in text
    assert "the service does not run" in text.lower()
    study = run.study
    assert f"{study.participation.hospitals} hospitals, {study.training.rounds} rounds" in text
    for name in ("model.safetensors", "federation.json", "rounds.csv", "study.toml"):
        got = web.get(f"/runs/run-1/{name}")
        assert got.content == (run.folder / name).read_bytes()
        assert got.headers["content-disposition"].startswith("attachment")
        assert f"/runs/run-1/{name}" in answer.text


def test_what_others_wrote_is_no_markup(web: httpx.Client) -> None:
    page = web.get("/runs/run-1").text
    assert HOSTILE not in page
    assert "&lt;script&gt;" in page


def test_the_page_loads_nothing_from_elsewhere(web: httpx.Client) -> None:
    page = web.get("/").text
    assert re.findall(r"(?:src|href|action)=\"(?!/)[^\"]*\"", page) == []
    assert "style=" not in page
    assert re.findall(r"<script(?![^>]* src=)", page) == []


def test_the_curve_has_a_point_for_each_round(run: RunFolder) -> None:
    view = view_of(run, [])
    rounds = run.study.training.rounds
    for chart in view.charts:
        for line, drawn in zip(chart.lines, chart.drawn, strict=True):
            assert [x for x, _ in line.points] == list(range(rounds + 1))
            assert drawn.path.count("L") == rounds
    assert len({line.dash for chart in view.charts[:1] for line in chart.drawn}) == len(
        view.charts[0].lines
    )


@pytest.mark.parametrize(
    "values",
    ["1e17", "nan", "0.5 nan", "nan 0.5", "1e17 1e17", "inf 1", "-inf nan", "-1e308 1e308", "0"],
)
def test_a_figure_out_of_all_bounds_leaves_the_curves_whole(
    run: RunFolder, tmp_path: Path, values: str
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run.folder, folder)
    rows = [f"{r},test,{value},{value}" for r, value in enumerate(values.split())]
    (folder / "rounds.csv").write_text("\n".join(["round,part,auc,loss", *rows, ""]))
    charts = view_of(RunFolder(folder), []).charts
    assert len(charts) == 2
    for chart in charts:
        page = f"{[line.path for line in chart.drawn]} {[tick.at for tick in chart.up]}"
        assert "nan" not in page
        assert "inf" not in page
        assert len({tick.at for tick in chart.up}) == 3
        assert chart.words
    drawn = sum(can_be_drawn(float(value)) for value in values.split())
    assert [len(line.marks) for line in charts[1].drawn] == [drawn] * (drawn > 0)


@pytest.mark.parametrize(
    "path",
    [
        "/runs/none",
        "/runs/..%2f..",
        "/runs/run-1/run.json",
        "/runs/run-1/..%2frun.json",
        "/runs/run-1/%2e%2e%2f%2e%2e%2f%2e%2e%2ftls-key.pem",
        "/runs/run-1/checkpoint",
    ],
)
def test_only_a_run_s_own_results_are_given(web: httpx.Client, path: str) -> None:
    assert web.get(path).status_code == 404


def test_hospitals_are_told_with_when_they_were_last_seen(hub: Aggregator) -> None:
    members = {member.name: member for member in overview_of(hub).members}
    assert set(members) == set(hub.roster().members)
    assert members["a"].seen == "2026-11-21T10:00:00+00:00"
    assert members["b"].seen == ""
    assert not members["a"].online  # no service runs: nobody knows


def test_a_damaged_run_is_said_and_the_others_are_shown(hub: Aggregator, web: httpx.Client) -> None:
    bad = hub.state / "runs" / "broken"
    bad.mkdir()
    (bad / "run.json").write_text("{")
    try:
        text = text_of(web.get("/").text)
        assert "is no run" in text
        assert "run-1" in text
        assert web.get("/runs/broken").status_code == 200
    finally:
        (bad / "run.json").unlink()
        bad.rmdir()


def record(state: State, reason: str = "") -> RunRecord:
    return RunRecord(
        name="r", title="t", study="0" * 64, seed=0, created="2026", state=state, reason=reason
    )


def test_the_round_says_whom_it_waits_for() -> None:
    online = ["a", "b", "c"]
    started = RoundStarted(2, 5, asked=3)
    said = Refused(2, Refusal("b", "BudgetError", "nothing is left", "wait"))
    events = [line_of(started)]
    stage = stage_of(record("running"), events, online)
    assert (stage.round, stage.rounds, stage.waiting, stage.left) == (2, 5, ("a", "b", "c"), 3)
    events += [line_of(Answered(2, "c")), line_of(said)]
    stage = stage_of(record("running"), events, online)
    assert (stage.answered, stage.waiting, stage.left) == (("c",), ("a",), 1)
    assert "1 of 3 hospitals have answered" in stage.words
    events.append(line_of(Answered(2, "a")))
    stage = stage_of(record("running"), events, online)
    assert (stage.left, stage.waiting) == (0, ())
    assert "their sum is opened" in stage.words
    over = RoundFinished(2, 5, 1.0, 2, 0, "validation", None)
    assert "next round" in stage_of(record("running"), [*events, line_of(over)], online).words
    last = RoundFinished(5, 5, 1.0, 2, 0, "validation", None)
    assert "judged" in stage_of(record("running"), [line_of(last)], online).words


@pytest.mark.parametrize("key", ["round", "rounds", "asked"])
@pytest.mark.parametrize("value", [None, "many", [1]])
def test_a_round_that_another_version_began_is_shown_as_far_as_it_is_known(
    key: str, value: object
) -> None:
    started = line_of(RoundStarted(2, 5, asked=3))
    del started[key]
    if value is not None:
        started[key] = value
    stage = stage_of(record("running"), [started, line_of(Answered(2, "c"))], ["a", "c"])
    whole = stage_of(
        record("running"), [line_of(RoundStarted(2, 5, asked=3)), line_of(Answered(2, "c"))], []
    )
    assert stage.answered == ("c",)
    assert stage.round == (0 if key == "round" else whole.round)
    assert stage.rounds == (0 if key == "rounds" else whole.rounds)
    assert ("not known" in stage.words) == (key == "asked")
    over = {**line_of(RoundFinished(2, 5, 1.0, 2, 0, "validation", None)), key: value}
    assert stage_of(record("running"), [started, over], []).words


def test_who_has_not_approved_is_said() -> None:
    event = HospitalsAwaited(1, 3, "not approved yet at B, C")
    stage = stage_of(record("waiting", event.words), [], [])
    assert stage.words == "Waiting: for hospitals, 1 of 3 are ready (not approved yet at B, C)."


def test_failures_are_told_in_words_and_torn_lines_are_left_out(tmp_path: Path) -> None:
    said = Refused(2, Refusal("b", "BudgetError", "nothing is left", "wait"))
    lines = [
        json.dumps({"at": "1", **line_of(said)}),
        "{torn",
        json.dumps({"at": "2", "event": "Refused", "of": "a later version"}),
        json.dumps({"at": "3", "event": "State", "state": "paused", "reason": "the disk is full"}),
        '{"event": "Answered", "ro',
    ]
    path = tmp_path / "events.jsonl"
    path.write_text("\n".join(lines))
    found = list(failures(newest_events(path)))
    assert [failure.text for failure in found] == [
        "round 2: hospital b: nothing is left; wait",
        "paused: the disk is full",
    ]
    assert newest_events(tmp_path / "none") == []


def test_a_long_run_s_newest_events_are_read(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    line = json.dumps({"at": "1", "event": "Answered", "round": 1, "hospital": "x" * 1000})
    path.write_text((line + "\n") * 3000 + json.dumps({"event": "Last"}) + "\n")
    events = newest_events(path)
    assert events[-1] == {"event": "Last"}
    assert 500 < len(events) < 1100
    assert {event["event"] for event in events} == {"Answered", "Last"}


def test_what_changes_is_sent(web: httpx.Client, run: RunFolder) -> None:
    with web.stream("GET", "/events/run-1", timeout=20) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        lines = (line for line in stream.iter_lines() if line.startswith("data: "))
        first = json.loads(next(lines).removeprefix("data: "))
        assert set(first) == {
            *("which", "service", "round", "curves", "failures", "downloads", "hospitals", "runs"),
        }
        said = Refused(2, Refusal("b", "BudgetError", "only now", "wait"))
        run.note(line_of(said))
        second = json.loads(next(lines).removeprefix("data: "))
        assert "only now" in second["failures"]
        assert "hospitals" not in second
