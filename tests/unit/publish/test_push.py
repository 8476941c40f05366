"""`zk0 push` against a local stand-in of the hub; and the canary: the token is nowhere."""

import base64
import hashlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from huggingface_hub import constants

from tests.unit.runs.made import commit
from zk0.config import RunConfig
from zk0.data import hub
from zk0.errors import ConfigError, PassingError, RunNameError
from zk0.publish.push import pack, round_of, send
from zk0.runs.store import RunStore

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of huggingface_hub, on its way to httpx
TOKEN = "hf_canaryCANARYcanaryCANARY0123456789"
REPO = "me/arm"


class Hub(BaseHTTPRequestHandler):
    """What an upload uses of the hub's interface."""

    files: ClassVar[dict[str, bytes]] = {}
    """What was committed."""
    stored: ClassVar[dict[str, bytes]] = {}
    """Large files by SHA-256."""
    asked: ClassVar[Counter[str]] = Counter()
    breaks: ClassVar[set[str]] = set()
    """Ways that answer 500."""
    status: ClassVar[int] = 200
    """Of the repository's creation."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        way = self.path.split("?")[0].rpartition("/")[2] if "commit" not in self.path else "commit"
        way = "preupload" if "preupload" in self.path else way
        Hub.asked[way] += 1
        if way in Hub.breaks:
            self.answer(500, {"error": f"not now, {self.headers.get('Authorization')}"})
        elif way == "create":
            self.answer(Hub.status, {"url": f"{self.base}/{REPO}", "error": self.headers.get("Authorization")})
        elif way == "preupload":
            asked = json.loads(body)["files"]
            modes = [{"path": item["path"], "uploadMode": self.mode(item["path"])} for item in asked]
            self.answer(200, {"files": [item | {"shouldIgnore": False} for item in modes]})
        elif way == "batch":
            self.answer(
                200, {"transfer": "basic", "objects": [self.large(item) for item in json.loads(body)["objects"]]}
            )
        elif way == "commit":
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    Hub.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                if line["key"] == "lfsFile":
                    Hub.files[line["value"]["path"]] = Hub.stored[line["value"]["oid"]]
            self.answer(200, {"success": True, "commitOid": "0" * 40, "commitUrl": f"{self.base}/{REPO}/commit/0"})
        else:
            self.answer(200, {})

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"])) if "Content-Length" in self.headers else b""
        while "Content-Length" not in self.headers and (size := int(self.rfile.readline(), 16)):
            content += self.rfile.read(size)
            self.rfile.readline()
        Hub.asked["put"] += 1
        Hub.stored[hashlib.sha256(content).hexdigest()] = content
        self.answer(200, {})

    def do_GET(self) -> None:
        self.answer(404, {})

    @property
    def base(self) -> str:
        return f"http://{self.headers['Host']}"

    def mode(self, path: str) -> str:
        return "lfs" if path.endswith(".safetensors") else "regular"

    def large(self, item: dict[str, Any]) -> dict[str, Any]:
        told: dict[str, Any] = {"oid": item["oid"], "size": item["size"]}
        if item["oid"] not in Hub.stored:
            told["actions"] = {"upload": {"href": f"{self.base}/put/{item['oid']}"}}
        return told

    def answer(self, status: int, value: dict[str, Any]) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Silence."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    Hub.files, Hub.stored, Hub.asked, Hub.breaks, Hub.status = {}, {}, Counter(), set(), 200
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(hub, "FIRST_WAIT_S", 0.01)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield Hub
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def store(small_config: Callable[..., RunConfig]) -> RunStore:
    store = RunStore.create_or_open(small_config(), "arm")
    for number in (0, 1):
        commit(store, number)
    return store


def written(_: RunStore, number: int, folder: Path, *, merge: bool) -> Path:
    """In the place of an export, which takes LeRobot."""
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(f"{number} {merge}".encode() * 1000)
    return folder


def nowhere(folder: Path, *said: str) -> None:
    """The token is in no file of a run, and in nothing that was said."""
    for path in folder.rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes(), path
    assert TOKEN not in "".join(said)


def test_a_policy_goes_to_the_hub_with_its_card(
    store: RunStore, server: type[Hub], capfd: pytest.CaptureFixture[str], told: list[str]
) -> None:
    parcel = pack(store, REPO, "last", merge=True, licence="apache-2.0", write=written)
    assert parcel.server_round == 1
    assert send(parcel, REPO, private=True).endswith("/me/arm/commit/0")
    assert set(server.files) == {path for path, _ in parcel.files}
    assert server.files["model.safetensors"] == b"1 True" * 1000
    readme = server.files["README.md"].decode()
    assert "license: apache-2.0" in readme
    for words in (
        "recordings on its owner's machine",
        "merged into the weights",
        "digest of the config",
    ):
        assert words in readme, words
    shared = server.files["zk0/config.json"].decode() + readme
    assert str(store.folder) not in shared
    assert "outputs_dir" not in shared
    nowhere(store.folder, *told, *capfd.readouterr(), readme)


def test_a_push_that_broke_goes_on_without_sending_again(store: RunStore, server: type[Hub]) -> None:
    parcel = pack(store, REPO, "last", merge=False, licence=None, write=written)
    server.breaks = {"commit"}
    with pytest.raises(PassingError, match="the hub answers 500; give the same command again later") as failed:
        send(parcel, REPO, private=True)
    assert failed.value.__suppress_context__, "the hub's own words may repeat what was sent"
    nowhere(store.folder, str(failed.value))
    assert server.asked["put"] == 1
    server.breaks = set()
    again = pack(store, REPO, "last", merge=False, licence=None, write=None)
    send(again, REPO, private=True)
    assert server.asked["put"] == 1
    assert server.files["model.safetensors"]


def test_a_refusal_names_the_remedy_and_no_token(store: RunStore, server: type[Hub]) -> None:
    parcel = pack(store, REPO, "last", merge=False, licence=None, write=written)
    server.status = 403
    with pytest.raises(ConfigError, match=r"the hub answers 403; the token may not write there") as refused:
        send(parcel, REPO, private=True)
    assert refused.value.__cause__ is None
    nowhere(store.folder, str(refused.value))
    with pytest.raises(ConfigError, match="give owner/name"):
        send(parcel, "not a name", private=True)


def test_a_round_is_named_by_what_it_is(store: RunStore) -> None:
    assert round_of(store, "last") == 1
    assert round_of(store, "0") == 0
    with pytest.raises(RunNameError, match=r"--round 7: run 'arm' has no such round; give best, last, or one of: 0, 1"):
        round_of(store, "7")
    with pytest.raises(RunNameError, match="--round best"):
        round_of(store, "best")  # nothing was evaluated
