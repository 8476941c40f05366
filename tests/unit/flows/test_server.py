"""The address of the pages that people are told."""

import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_UI_URL, temporary_settings

from flows.server import ui_url

INNER, OUTER = "http://server:4200", "http://127.0.0.1:4200"


@pytest.mark.parametrize("api", [f"{INNER}/api", f"{INNER}/api/"])
def test_the_pages_lie_beside_the_api_unless_the_setting_says_where(api: str) -> None:
    with temporary_settings({PREFECT_API_URL: api}):
        assert ui_url(api) == INNER
    with temporary_settings({PREFECT_API_URL: api, PREFECT_UI_URL: OUTER}):
        assert ui_url(api) == OUTER
