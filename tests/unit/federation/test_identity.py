"""A run is of its recordings and versions: what has changed under it is named when it goes on."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.unit.runs.test_origin import config_of
from zk0.config import RunConfig
from zk0.errors import DatasetError
from zk0.federation.start import begin, check_again
from zk0.files import atomic
from zk0.preflight.records import Preflight
from zk0.runs.store import RunStore

FILES = {"meta/info.json": "1", "data/0.parquet": "2", "videos/0.mp4": "3"}


def finding(**files: Mapping[str, str]):
    """Checks that find these files."""

    def check(config: RunConfig) -> Preflight:
        return Preflight(
            config=config, frames={}, exchanged_bytes=1, files={name: dict(of) for name, of in files.items()}
        )

    return check


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data/0.parquet": "9"}, r"\(changed: data/0.parquet\)"),
        ({"data/1.parquet": "9"}, r"\(new: data/1.parquet\)"),
        ({"videos/0.mp4": None}, r"\(gone: videos/0.mp4\)"),
        ({**dict.fromkeys(FILES, "9"), "a": "1", "b": "1"}, r"changed: .*, .*, .*; new: a, b\)"),
        ({f"{number}": "1" for number in range(5)}, r"new: 0, 1, 2 and 2 more\)"),
    ],
)
def test_changed_recordings_are_refused(tmp_path: Path, changes: dict[str, str | None], words: str) -> None:
    config = config_of(tmp_path)
    store = begin(config, "mine", check=finding(kitchen=FILES, workshop=FILES))
    before = (store.folder / "run.json").read_bytes()
    now = {name: digest for name, digest in (FILES | changes).items() if digest is not None}
    for again in (
        lambda check: begin(config, "mine", check=check),
        lambda check: begin(config, check=check),
        lambda check: check_again(RunStore.open(tmp_path, "mine"), check),
    ):
        with pytest.raises(DatasetError, match=words) as caught:
            again(finding(kitchen=FILES, workshop=now))
        assert "dataset 'workshop'" in str(caught.value)
        assert "kitchen" not in str(caught.value)
        assert "put them back as they were, or start a new run by --name" in str(caught.value)
        again(finding(kitchen=FILES, workshop=FILES))
        again(finding(kitchen=FILES))  # what lies on the hub may have been cleared away
    assert (store.folder / "run.json").read_bytes() == before


def test_the_names_are_all_that_a_lost_note_costs(tmp_path: Path) -> None:
    store = begin(config_of(tmp_path), "mine", check=finding(kitchen=FILES))
    for lose in (lambda file: file.write_text("{"), Path.unlink):
        lose(store.folder / "data.json")
        with pytest.raises(DatasetError, match=r"'mine' was begun with; put them back"):
            begin(config_of(tmp_path), "mine", check=finding(kitchen={**FILES, "x": "1"}))
        begin(config_of(tmp_path), "mine", check=finding(kitchen=FILES))


def test_what_was_not_there_yet_is_noted_when_the_run_goes_on(tmp_path: Path) -> None:
    """As with runs of earlier versions, and with recordings that lay on the hub."""
    config = config_of(tmp_path)
    begin(config, "mine", check=finding(kitchen=FILES))
    later = begin(config, "mine", check=finding(kitchen=FILES, workshop=FILES))
    assert set(RunStore.open(tmp_path, "mine").info.data) == {"kitchen"}, "nobody writes without the lock"
    with later.lock():
        pass
    assert set(RunStore.open(tmp_path, "mine").info.data) == {"kitchen", "workshop"}
    with pytest.raises(DatasetError, match=r"'workshop'.*gone: data/0.parquet, videos/0.mp4"):
        begin(config, "mine", check=finding(kitchen=FILES, workshop={"meta/info.json": "1"}))


def test_the_recordings_have_no_part_in_the_digest(tmp_path: Path) -> None:
    one = begin(config_of(tmp_path), "one", check=finding(kitchen=FILES))
    two = RunStore.create_or_open(config_of(tmp_path), "two")
    assert one.info.config_digest == two.info.config_digest
    assert one.info.data["kitchen"] != "1"
    assert two.info.data == {}


def test_other_versions_are_named(tmp_path: Path, warnings: list[str]) -> None:
    store = begin(config_of(tmp_path), "mine", check=finding(kitchen=FILES))
    record = json.loads((store.folder / "run.json").read_text())
    record["versions"] |= {"torch": "1.0", "python": "3.1", "gone": "1"}
    del record["checksum"], record["versions"]["peft"]
    atomic.write_sealed(store.folder / "run.json", record)
    begin(config_of(tmp_path), "mine", check=finding(kitchen=FILES))
    assert len(warnings) == 1
    assert " torch 1.0 (now " in warnings[0]
    assert "python 3.1 (now 3." in warnings[0]
    assert "peft" not in warnings[0]
