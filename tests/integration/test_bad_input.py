"""Bad input: refused before training, in one message that names key or file, value and remedy; nothing is touched."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.service import CommandLine
from zk0.config import RunConfig, resolve_path
from zk0.errors import BadInputError, DatasetError, PolicyError
from zk0.preflight.checks import preflight

pytestmark = pytest.mark.slow
MakeConfig = Callable[..., RunConfig]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A private copy of a shipped dataset, to be broken."""
    target = tmp_path / "dataset"
    shutil.copytree(resolve_path("asset:datasets/kitchen"), target)
    return target


def with_dataset(make: MakeConfig, root: Path, **changes: object) -> RunConfig:
    clients = [{"name": "mine", "repo_id": "zk0/mine", "root": str(root)}]
    return make(clients=clients, federation__min_train_clients=1, **changes)


def edit_info(root: Path, **changes: object) -> None:
    path = root / "meta" / "info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def rewrite_rows(root: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    path = next((root / "data").rglob("*.parquet"))
    pq.write_table(change(pq.read_table(path)), path)


def test_the_shipped_data_pass(small_config: MakeConfig) -> None:
    found = preflight(small_config(policy__device="auto"))
    assert found.config.policy.device in ("cpu", "cuda")
    assert set(found.frames) == {"kitchen", "workshop"}


def test_a_missing_dataset(small_config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"'mine': metadata: root = .*no LeRobot dataset.*give the folder"):
        preflight(with_dataset(small_config, tmp_path / "nowhere"))


def test_damaged_metadata(small_config: MakeConfig, dataset: Path) -> None:
    (dataset / "meta" / "info.json").write_text('{"codebase_version": "v3.0", ')
    with pytest.raises(DatasetError, match=r"'mine': metadata: .*/meta/info.json: is damaged"):
        preflight(with_dataset(small_config, dataset))


def test_a_missing_video(small_config: MakeConfig, dataset: Path) -> None:
    next((dataset / "videos").rglob("*.mp4")).unlink()
    with pytest.raises(DatasetError, match=r"'mine': files: .*\.mp4 is missing or empty; restore the file"):
        preflight(with_dataset(small_config, dataset))


def test_a_truncated_data_file(small_config: MakeConfig, dataset: Path) -> None:
    path = next((dataset / "data").rglob("*.parquet"))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DatasetError, match=r"'mine': files: a data file cannot be read"):
        preflight(with_dataset(small_config, dataset))


def test_doubled_rows(small_config: MakeConfig, dataset: Path) -> None:
    rewrite_rows(dataset, lambda table: pa.concat_tables([table, table]))
    with pytest.raises(DatasetError, match=r"'mine': rows: data/ has \d+ rows, but info.json says \d+ frames"):
        preflight(with_dataset(small_config, dataset))


def test_time_steps_off_the_frame_rate(small_config: MakeConfig, dataset: Path) -> None:
    edit_info(dataset, fps=24)
    with pytest.raises(DatasetError, match=r"'mine': timestamps: a time step is off 1/fps by 0\.00\d+ s, more than"):
        preflight(with_dataset(small_config, dataset))


def test_tolerance_s_decides(small_config: MakeConfig, dataset: Path) -> None:
    edit_info(dataset, fps=24)
    preflight(with_dataset(small_config, dataset, data__tolerance_s=0.01))


def test_too_few_episodes_for_the_holdout(small_config: MakeConfig, dataset: Path) -> None:
    with pytest.raises(
        DatasetError, match=r"'mine': episodes: \d+ episodes, of which evaluation.holdout_episodes = 99"
    ):
        preflight(with_dataset(small_config, dataset, evaluation__holdout_episodes=99))


def test_a_camera_that_the_base_needs_is_missing(small_config: MakeConfig, dataset: Path) -> None:
    info = json.loads((dataset / "meta" / "info.json").read_text())
    names = {
        "observation.images.front": "observation.images.top",
        "observation.images.wrist": "observation.images.side",
    }
    edit_info(dataset, features={names.get(key, key): value for key, value in info["features"].items()})
    for old, new in names.items():
        (dataset / "videos" / old).rename(dataset / "videos" / new)
    _rename_video_columns(dataset, names)
    with pytest.raises(PolicyError, match=r"'mine': cameras: the policy needs 'observation.images.*rename_map"):
        preflight(with_dataset(small_config, dataset))
    renamed = {new: old for old, new in names.items()}
    clients = [{"name": "mine", "repo_id": "zk0/mine", "root": str(dataset), "rename_map": renamed}]
    preflight(small_config(clients=clients, federation__min_train_clients=1))


def _rename_video_columns(dataset: Path, names: dict[str, str]) -> None:
    for path in (dataset / "meta" / "episodes").rglob("*.parquet"):
        table = pq.read_table(path)
        columns = list(table.column_names)
        for old, new in names.items():
            columns = [column.replace(f"videos/{old}/", f"videos/{new}/") for column in columns]
            columns = [column.replace(f"stats/{old}/", f"stats/{new}/") for column in columns]
        pq.write_table(table.rename_columns(columns), path)


def test_a_base_that_is_not_there(small_config: MakeConfig, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(PolicyError, match=r"policy.path = .*no LeRobot policy can be read there"):
        preflight(small_config(policy__path=str(empty)))


def test_unknown_fields_of_the_policy(small_config: MakeConfig) -> None:
    with pytest.raises(PolicyError, match=r"policy.overrides.num_stepz = 3: SmolVLAConfig has no such field"):
        preflight(small_config(policy__overrides={"num_stepz": 3}))


def test_an_unknown_policy_type(small_config: MakeConfig) -> None:
    changes = {"policy": {"type": "akt"}, "peft__enabled": False, "data__normalization": "federated"}
    with pytest.raises(PolicyError, match=r"policy.type = 'akt': LeRobot does not know it; use one of .*act"):
        preflight(small_config(**changes))


def test_every_refusal_is_bad_input() -> None:
    assert issubclass(DatasetError, BadInputError)
    assert issubclass(PolicyError, BadInputError)
    assert BadInputError.exit_code == 2


def test_the_command_line_refuses_in_one_message_and_touches_nothing(zk0: CommandLine, tmp_path: Path) -> None:
    outputs = tmp_path / "untouched"
    config = zk0.config(outputs_dir=str(outputs))
    output = zk0.run("run", config, "--set", "clients.0.root=/nowhere", exit_code=2)
    assert "kitchen" in output
    assert "Traceback" not in output
    assert not outputs.exists()


def test_an_unknown_key_is_refused_at_once(zk0: CommandLine) -> None:
    output = zk0.run("run", zk0.config(), "--set", "training.stepz=3", exit_code=2)
    assert "training.stepz = 3: unknown key (did you mean 'steps'?)" in " ".join(output.split())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere; /proc is tried instead")
def test_an_output_folder_that_is_not_writable(zk0: CommandLine, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    output = zk0.run("run", zk0.config(outputs_dir=str(tmp_path / "outputs")), exit_code=2)
    assert "outputs_dir" in output


def test_an_output_folder_on_a_read_only_file_system(zk0: CommandLine) -> None:
    output = zk0.run("run", zk0.config(outputs_dir="/proc/zk0"), exit_code=2)
    assert "outputs_dir = '/proc/zk0'" in " ".join(output.split())
