"""The address of the pages that people are told."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_UI_URL, temporary_settings

from flows.server import answers, ensure_server, ui_url
from zk0.errors import BadInputError

INNER, OUTER = "http://server:4200", "http://127.0.0.1:4200"


class Pages(BaseHTTPRequestHandler):
    """Any web server: it has a page for every address, and Prefect's API under /prefect/api."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"true" if self.path == "/prefect/api/health" else b"<html></html>")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def pages() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_web_server_that_is_not_prefects_api_is_told_by_what_it_says(pages: str) -> None:
    assert answers(f"{pages}/prefect/api")
    assert not answers(f"{pages}/api")
    with (
        temporary_settings({PREFECT_API_URL: f"{pages}/prefect"}),
        pytest.raises(BadInputError, match=r"set it to '.*/api'"),
    ):
        ensure_server()
    with temporary_settings({PREFECT_API_URL: pages}), pytest.raises(BadInputError, match="no Prefect server answers"):
        ensure_server()


@pytest.mark.parametrize("api", [f"{INNER}/api", f"{INNER}/api/"])
def test_the_pages_lie_beside_the_api_unless_the_setting_says_where(api: str) -> None:
    with temporary_settings({PREFECT_API_URL: api}):
        assert ui_url(api) == INNER
    with temporary_settings({PREFECT_API_URL: api, PREFECT_UI_URL: OUTER}):
        assert ui_url(api) == OUTER
