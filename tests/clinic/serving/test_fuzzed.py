"""Schemathesis asks what the service's own OpenAPI allows, and what it does not."""

from __future__ import annotations

import contextlib
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import response_schema_conformance

from tests.clinic.serving.conftest import Service

EXAMPLES = 25


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mode", list(GenerationMode))
def test_no_request_breaks_the_service(
    service: Service, web: httpx.Client, mode: GenerationMode
) -> None:
    schema: Any = schemathesis.openapi.from_url(f"{service.url}/openapi.json")
    asked: set[int] = set()
    endpoints: set[str] = set()
    for result in schema.get_all_operations():
        operation = result.ok()

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(
            max_examples=EXAMPLES,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
            deadline=None,
            database=None,
            derandomize=True,
        )
        def ask(case: Any) -> None:  # noqa: ANN401
            for name in ("picture", "rows"):
                if "name" in case.path_parameters and mode is GenerationMode.POSITIVE:
                    case.path_parameters["name"] = name  # else all are 404
                answer = case.call(timeout=60)
                asked.add(answer.status_code)
                endpoints.add(case.operation.path)
                case.validate_response(
                    answer, checks=[not_a_server_error, response_schema_conformance]
                )
                if answer.status_code >= 400:
                    assert answer.json()["error"].endswith(".")

        if mode is GenerationMode.POSITIVE:
            ask()
            continue
        with contextlib.suppress(Unsatisfiable):  # nothing to give wrongly
            ask()
    assert 400 in asked
    assert {"/predict", "/v2/models/{name}/infer"} <= endpoints
    assert asked <= {200, 400, 404, 405, 413, 415, 429}
