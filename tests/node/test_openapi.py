"""Whatever fits the OpenAPI description, and whatever just doesn't, gets a documented answer."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings


@pytest.mark.slow
def test_no_request_breaks_the_api(api_schema: Any) -> None:
    tried = 0
    for found in api_schema.get_all_operations():

        @given(case=found.ok().as_strategy())
        @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
        def check(case: Any) -> None:
            answer = case.call(headers={"Authorization": "Bearer alice-key"})
            assert answer.status_code < 500, answer.text
            if answer.status_code >= 400:
                assert set(answer.json()) == {"error"}

        check()
        tried += 1
    assert tried == 16
