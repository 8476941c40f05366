"""What was found in recordings is remembered by what their files hold, and datasets are looked at side by side."""

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from flows.advance import advanced_run
from zk0.config import RunConfig, resolve_path
from zk0.errors import DatasetError, PolicyError
from zk0.executors.side_by_side import examine_all
from zk0.federation.start import begin
from zk0.files.cache import FOLDER_VARIABLE
from zk0.preflight.between import together
from zk0.preflight.datasets import examine
from zk0.preflight.records import Examined

pytestmark = pytest.mark.slow
MakeConfig = Callable[..., RunConfig]


@pytest.fixture
def config(small_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """One client with recordings of its own, which nobody has looked at."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "cache"))
    shutil.copytree(resolve_path("asset:datasets/kitchen"), tmp_path / "mine")
    client = {"name": "mine", "repo_id": "zk0/mine", "root": str(tmp_path / "mine")}
    return small_config(clients=[client], federation__min_train_clients=1)


def look(config: RunConfig, *, every_frame: bool = True, fresh: bool = False) -> tuple[Examined, bool]:
    """What is found, and whether the rows were looked at for it."""
    said: list[str] = []
    found = examine(config, config.clients[0], every_frame=every_frame, fresh=fresh, say=said.append)
    return found, "rows" in said


def test_what_was_found_good_is_not_looked_at_again(config: RunConfig, tmp_path: Path) -> None:
    first, looked = look(config)
    assert looked
    assert look(config) == (first, False)
    assert look(config, every_frame=False) == (first, False), "every frame is more than a few"
    assert look(config, fresh=True) == (first, True)
    other = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"holdout_episodes": 1})})
    assert look(other)[1]
    for record in (tmp_path / "cache").rglob("*.json"):
        record.write_text("{")
    assert look(config) == (first, True)


def test_a_few_frames_do_not_stand_for_all(config: RunConfig) -> None:
    assert look(config, every_frame=False)[1]
    assert not look(config, every_frame=False)[1]
    assert look(config)[1]


def test_what_changed_is_looked_at_and_errors_always_are(config: RunConfig) -> None:
    look(config)
    file = next((Path(str(config.clients[0].root)) / "data").rglob("*.parquet"))
    whole = file.read_bytes()
    pq.write_table(pq.read_table(file).slice(1), file)
    for _ in range(2):
        found, looked = look(config)
        assert looked
        assert any(finding.verdict == "error" for finding in found.findings)
    file.write_bytes(whole)
    found, looked = look(config)
    assert not looked
    assert not any(finding.verdict == "error" for finding in found.findings)


def test_a_run_is_of_its_recordings(config: RunConfig) -> None:
    store = begin(config, "mine")
    before = (store.folder / "run.json").read_bytes()
    assert begin(config, "mine").info == store.info
    stats = Path(str(config.clients[0].root)) / "meta" / "stats.json"
    stats.write_text(stats.read_text() + "\n")
    with pytest.raises(DatasetError, match=r"dataset 'mine': its recordings .* \(changed: meta/stats.json\); put them"):
        begin(config, "mine")
    with pytest.raises(DatasetError, match="its recordings are not those"), ExitStack() as served:
        served.enter_context(advanced_run(str(store.folder), []))
    assert (store.folder / "run.json").read_bytes() == before
    assert begin(config, "other").info.data != store.info.data


def test_side_by_side_they_find_the_same_in_order(small_config: MakeConfig, tmp_path: Path) -> None:
    broken = shutil.copytree(resolve_path("asset:datasets/workshop"), tmp_path / "[broken]")
    next(broken.rglob("*.mp4")).unlink()
    clients = [item.model_dump() for item in small_config().clients]
    config = small_config(clients=[clients[0], {**clients[1], "root": str(broken)}])
    told: list[str] = []
    found = examine_all(config, every_frame=True, fresh=True, watch=told.append)
    assert found == [examine(config, dataset, every_frame=True) for dataset in config.datasets]
    report = together(config, found)
    assert [finding.dataset for finding in report.of("error")] == ["workshop"]
    assert "[broken]" in report.of("error")[0].seen
    assert any("checked 0 of 2 datasets" in line for line in told)


def test_what_no_dataset_is_to_blame_for_is_told_once(small_config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(PolicyError, match=r"policy.path = .*empty"):
        examine_all(small_config(policy__path=str(tmp_path / "empty")), every_frame=False)
