"""What a container sees of this machine, by kind of work."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from benchmarks.service import small_run
from tests.unit.executors.docker.made import INCOMING, STATS, config, task
from zk0.config import RunConfig, validate_config
from zk0.errors import ClientError
from zk0.executors.docker import visible
from zk0.work.records import ClientTask


def seen(made: ClientTask, settings: RunConfig) -> dict[str, bool]:
    """Path below the test's folder -> whether it may be written."""
    return {bind.target: bind.writable for bind in visible.binds(made, settings) if "models--" not in bind.target}


def test_a_fit_sees_its_own_data_and_writes_its_own_folder(tmp_path: Path) -> None:
    run = tmp_path / "outputs" / "a-run"
    assert seen(task(config(tmp_path)), config(tmp_path)) == {
        str(run / "run.json"): False,
        str(run / INCOMING.path): False,
        str(run / STATS.path): False,
        str(run / "rounds/0001/clients/kitchen"): True,
        str(tmp_path / "kitchen"): False,
    }


def test_init_sees_the_round_it_continues_from_and_may_write_a_new_base(tmp_path: Path) -> None:
    scratch = {"policy": {"type": "act"}, "peft": {"enabled": False}, "data": {"normalization": "federated"}}
    settings = config(tmp_path, continue_from="earlier@7", **scratch)
    found = seen(task(settings, "init", "server"), settings)
    outputs = tmp_path / "outputs"
    assert found[str(outputs / "a-run" / "base")] is True
    assert found[str(outputs / "earlier" / "rounds" / "0007")] is False
    assert found[str(outputs / "earlier" / "run.json")] is False
    assert seen(task(settings), settings)[str(outputs / "a-run" / "base")] is False
    assert str(tmp_path / "workshop") not in found


def test_a_policy_is_seen_with_what_it_builds_on(tmp_path: Path) -> None:
    """An adapter, its base, and the models that the base's config and the overrides name."""
    for name in ("adapter", "base", "vlm", "clip", "private"):
        (tmp_path / name).mkdir()
    here = {name: str(tmp_path / name) for name in ("adapter", "base", "vlm", "clip", "private")}
    write(tmp_path / "adapter" / "adapter_config.json", base_model_name_or_path=here["base"])
    write(tmp_path / "adapter" / "config.json", type="smolvla", use_peft=True, vlm_model_name=here["private"])
    write(tmp_path / "base" / "config.json", type="smolvla", vlm_model_name=here["vlm"])
    write(tmp_path / "vlm" / "config.json", model_type="smolvlm")
    overrides = {"text_encoder_name": here["clip"], "freeze": "auto", "num_steps": 3}
    settings = config(tmp_path, policy={"path": here["adapter"], "overrides": overrides})
    wanted = {here[name]: False for name in ("adapter", "base", "vlm", "clip")}
    for kind in ("init", "train"):
        found = seen(task(settings, kind, "server" if kind == "init" else "kitchen"), settings)
        assert wanted.items() <= found.items()
        assert here["private"] not in found, "a config may not name any folder that it likes"
    assert {str(path) for path in visible.read_only_inputs(settings)} >= wanted.keys()


def test_only_who_makes_a_base_sees_the_backbones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch/hub/checkpoints").mkdir(parents=True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    scratch = config(tmp_path, policy={"type": "act"}, peft={"enabled": False}, data={"normalization": "federated"})
    backbones = str(tmp_path / "torch/hub/checkpoints")
    assert seen(task(scratch, "init", "server"), scratch)[backbones] is False
    assert backbones not in seen(task(scratch), scratch), "the run's own base has them"


def write(file: Path, **content: object) -> None:
    file.write_text(json.dumps(content))


@pytest.mark.slow
def test_a_dataset_of_the_hub_is_seen_where_lerobot_looks_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held against LeRobot itself: the cache's layout, links and all, mounted as the executor does, opens offline."""
    monkeypatch.setenv("HF_LEROBOT_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    data = small_run(tmp_path / "outputs")
    data["clients"] = [{"name": "kitchen", "repo_id": "zk0/kitchen"}]
    data["federation"]["min_train_clients"] = 1
    settings = validate_config(data)
    with pytest.raises(ClientError, match=r"zk0/kitchen is not on this machine.*zk0 check-data") as caught:
        visible.binds(task(settings), settings)
    assert caught.value.cause == "bad_data"
    snapshot = fetched(tmp_path / "cache")
    binds = {bind.target: bind.source for bind in visible.binds(task(settings), settings)}
    assert binds["/data/lerobot/zk0/kitchen"] == str(snapshot)
    inside = tmp_path / "inside"
    for target in ("/data/lerobot/zk0/kitchen", "/data/lerobot/blobs"):
        (inside / target[1:]).parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-a", binds[target], inside / target[1:]], check=True)
    code = (
        "from lerobot.datasets.lerobot_dataset import LeRobotDataset as D; print(len(D('zk0/kitchen', episodes=[0])))"
    )
    environment = {**os.environ, **visible.environment(), "HF_LEROBOT_HOME": str(inside / "data/lerobot")}
    environment |= {"HF_DATASETS_CACHE": str(tmp_path / "arrow")}
    opened = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, timeout=400
    )
    assert opened.returncode == 0, opened.stderr[-2000:]
    assert int(opened.stdout.split()[-1]) > 10


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"HUGGINGFACE_HUB_CACHE": "/legacy/hub", "HF_HOME": "$SCRATCH/hf", "SCRATCH": "/scratch"},
        {"HF_HUB_CACHE": "$SCRATCH/hub", "SCRATCH": "/scratch", "HF_LEROBOT_HOME": "~/robots"},
    ],
)
def test_the_caches_are_where_their_libraries_have_them(changes: dict[str, str]) -> None:
    code = """
    import sys
    from zk0.executors.docker import visible
    assert not {"torch", "lerobot"} & set(sys.modules)
    found = [visible.environment()["HF_HUB_CACHE"], str(visible._lerobot_home())]
    from huggingface_hub.constants import HF_HUB_CACHE
    from lerobot.utils.constants import HF_LEROBOT_HOME
    assert found == [HF_HUB_CACHE, str(HF_LEROBOT_HOME)], (found, HF_HUB_CACHE, HF_LEROBOT_HOME)
    """
    ours = ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_LEROBOT_HOME", "XDG_CACHE_HOME")
    environment = {key: value for key, value in os.environ.items() if key not in ours}
    environment |= {"PYTHONPATH": os.pathsep.join(sys.path)} | changes
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=environment, check=True)


def fetched(cache: Path) -> Path:
    """A dataset as huggingface_hub stores it: blobs, and a snapshot of links."""
    from zk0.config import resolve_path

    folder = cache / "hub" / "datasets--zk0--kitchen"
    snapshot = folder / "snapshots" / "abc"
    (folder / "blobs").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "v3.0").write_text("abc")
    origin = resolve_path("asset:datasets/kitchen")
    for number, source in enumerate(path for path in sorted(origin.rglob("*")) if path.is_file()):
        blob = folder / "blobs" / str(number)
        blob.write_bytes(source.read_bytes())
        link = snapshot / source.relative_to(origin)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot
