"""A hub that is busy: a local stand-in, by HF_ENDPOINT, that refuses every question a few times before it answers."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

import pytest

from tests.recordings import as_old
from zk0.config import resolve_path

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
REPO = "someone/kitchen"
COMMIT = hashlib.sha1(b"commit").hexdigest()
SOURCE = resolve_path("asset:datasets/unseen")
FETCH = """
import sys
from pathlib import Path
from zk0.config import validate_config
from zk0.data import hub
from zk0.preflight.checks import check_data
hub.FIRST_WAIT_S = float(sys.argv[1])
client = {"name": "mine", "repo_id": "someone/kitchen"}
config = validate_config({"clients": [client], "policy": {"path": "asset:base", "device": "cpu"}})
from zk0.errors import DatasetError
try:
    found = check_data(config, Path(sys.argv[2]) if len(sys.argv) > 2 else None)
except DatasetError as error:
    sys.exit(f"DatasetError: {error}")
print([item.seen for item in found.findings if item.check == "video frames"], len(found.of("error")))
"""


class StandIn(BaseHTTPRequestHandler):
    """The part of the hub's interface that a download of a dataset uses."""

    refuse: ClassVar[list[int]] = []
    """The statuses with which each address is refused, one after another, before it is served."""
    source: ClassVar[Path] = SOURCE
    """The recording that the repository holds."""
    branch: ClassVar[str] = "v3.0"
    """Its only branch; none where it is empty."""
    asked: ClassVar[Counter[str]] = Counter()

    def do_GET(self) -> None:
        """Refuse, or serve."""
        path = unquote(urlsplit(self.path).path)
        key = f"{self.command} {path}"
        StandIn.asked[key] += 1
        if StandIn.asked[key] <= len(self.refuse):
            self.answer(self.refuse[StandIn.asked[key] - 1], b"busy", {"Retry-After": "0"})
        elif path.startswith(f"/api/datasets/{REPO}/refs"):
            branch = {"name": self.branch, "ref": f"refs/heads/{self.branch}", "targetCommit": COMMIT}
            self.answer_json({"branches": [branch] if self.branch else [], "tags": [], "converts": []})
        elif path.startswith(f"/api/datasets/{REPO}/revision/"):
            self.answer_json({"id": REPO, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files()]})
        elif path.startswith(f"/api/datasets/{REPO}/tree/"):
            self.answer_json(
                [
                    {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                    for name, content in files().items()
                ]
            )
        elif (name := path.partition(f"/resolve/{COMMIT}/")[2]) in files():
            content = files()[name]
            self.answer(200, content, {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT})
        else:
            self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})

    do_HEAD = do_GET  # noqa: N815

    def answer_json(self, value: Any) -> None:
        self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Silence."""


def files() -> dict[str, bytes]:
    source = StandIn.source
    return {str(path.relative_to(source)): path.read_bytes() for path in sorted(source.rglob("*")) if path.is_file()}


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
    StandIn.asked.clear()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def fetch(endpoint: str, home: Path, first_wait_s: float, *fix_to: str) -> subprocess.CompletedProcess[str]:
    """Fetch and check the dataset as `zk0 check-data` does, in a process of its own: the endpoint is read at import."""
    kept = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    environment = kept | {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_LEROBOT_HOME": str(home / "lerobot"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-c", FETCH, str(first_wait_s), *fix_to]
    return subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, check=False, timeout=300)


def test_a_busy_hub_is_asked_again_until_it_answers(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StandIn, "refuse", [429, 503])
    done = fetch(endpoint, tmp_path, first_wait_s=0.01)
    assert done.stdout.splitlines()[-1] == "['888 decoded'] 0", done.stderr
    assert "someone/kitchen: the hub answers 429; asking again in 0 s (attempt 1 of 6)" in done.stderr
    assert "someone/kitchen: the hub answers 503" in done.stderr
    [snapshot] = [path for path in (tmp_path / "lerobot").rglob(COMMIT) if path.is_dir()]
    there = {str(path.relative_to(snapshot)): path.read_bytes() for path in snapshot.rglob("*") if path.is_file()}
    assert there == files()


@pytest.mark.exhaustive
def test_a_hub_that_stays_busy_is_named_at_last(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StandIn, "refuse", [503] * 100)
    done = fetch(endpoint, tmp_path, first_wait_s=0.01)
    assert "DatasetError: dataset 'mine': repo_id = 'someone/kitchen' cannot be fetched from the hub (" in done.stderr
    assert "503" in done.stderr
    assert max(StandIn.asked.values()) == 6
    assert "Traceback" not in done.stderr


def test_what_will_not_pass_is_not_asked_again(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StandIn, "refuse", [401] * 100)
    done = fetch(endpoint, tmp_path, first_wait_s=0.01)
    assert "DatasetError: dataset 'mine': repo_id = 'someone/kitchen' cannot be fetched from the hub (" in done.stderr
    assert max(StandIn.asked.values()) == 1


@pytest.mark.exhaustive
def test_a_hub_that_is_not_there(tmp_path: Path) -> None:
    done = fetch("http://127.0.0.1:9", tmp_path, first_wait_s=0.01)
    assert "DatasetError: dataset 'mine': repo_id = 'someone/kitchen' cannot be fetched from the hub (" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.exhaustive
def test_an_older_recording_on_the_hub_is_named_and_converted_in_a_copy(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StandIn, "source", as_old(SOURCE, tmp_path / "old"))
    monkeypatch.setattr(StandIn, "branch", "v2.1")
    done = fetch(endpoint, tmp_path, 0.01)
    said = "DatasetError: dataset 'mine': repo_id = 'someone/kitchen': is v2.1 on the hub, older than v3.0"
    assert said in done.stderr
    assert "convert_dataset_v21_to_v30 --repo-id=someone/kitchen --push-to-hub=false`" in done.stderr
    assert "--fix-to" in done.stderr
    done = fetch(endpoint, tmp_path, 0.01, str(tmp_path / "new"))
    assert done.stdout.splitlines()[-1:] == ["['298 decoded'] 0"], done.stderr
    assert (tmp_path / "new" / "mine" / "meta" / "info.json").is_file()
