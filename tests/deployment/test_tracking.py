"""A deployment with trackers: TensorBoard has the run, MLflow is away, and a person decides."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedward.server.aggregator import TrackingSettings, read_aggregator, write_aggregator
from tests.deployment.at_work import AtWork, at_work, three

pytestmark = pytest.mark.slow
AWAY = "mlflow:http://127.0.0.1:9"


def prepare(work: AtWork) -> None:
    """Trackers in `aggregator.toml`; MLflow's token in a file of its owner's."""
    token = work.hub / "mlflow-token"
    token.touch(mode=0o600)
    token.write_text("s3cr3t-w0rd")
    wanted = TrackingSettings(to=("tensorboard:tb", AWAY), token_file=token.name)
    hub = read_aggregator(work.hub_file).model_copy(update={"tracking": wanted})
    write_aggregator(hub, work.hub_file)
    assert read_aggregator(work.hub_file).tracking == wanted


def test_a_deployed_run_is_tracked_and_its_model_is_approved() -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    study = three("tracked")
    with at_work(study, prepare=prepare) as work:
        run = work.train(study, "tracked")
        work.finished(run)

        found = accumulator.EventAccumulator(str(work.hub / "tb" / "tracked"))
        found.Reload()
        outcome = json.loads((run.folder / "federation.json").read_text("utf-8"))["test"]
        assert found.Scalars("final/test/auc")[0].value == pytest.approx(outcome["auc"])
        said = run.log.read_text("utf-8")
        assert "MLflow at http://127.0.0.1:9 does not answer" in said
        assert "s3cr3t-w0rd" not in said + work.hub_log

        here = ("--aggregator", work.hub_file)
        who = ("--by", "Dr Ada Chen", "--reason", "good on our own records")
        assert "candidate" in work.fedward("aggregator", "models", *here)
        work.fedward("aggregator", "approve", "tracked", *who, *here)
        report = work.hub / "report"
        work.fedward("report", run.folder, "--out", report)
        assert "approved by Dr Ada Chen" in Path(report / "report.html").read_text("utf-8")
        work.no_traceback()
