"""What a run begins from: built and tried once before anything is written; an adapter is merged into its base."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies import make_policy
from safetensors.numpy import load_file

import zk0
from benchmarks.service import small_run
from tests.bases import STATS, WEIGHTS, adapter, base, edit_json, edit_tensors, keyed_by_dataset, spoiled
from tests.refusals import accepted, refused
from zk0.client.run import run_task
from zk0.config import PolicyConfig, RunConfig, resolve_path, validate_config
from zk0.data.datasets import open_metadata
from zk0.errors import ConfigError, PolicyError
from zk0.federation.start import room_needed
from zk0.files.atomic import file_digest
from zk0.layout import BASE_FOLDER
from zk0.learning import build
from zk0.learning.policy import load_policy_config, source_path
from zk0.preflight import fetch, room
from zk0.preflight.checks import try_policy
from zk0.preflight.trial import Trial
from zk0.runs.records import RoundState
from zk0.runs.store import RunStore
from zk0.work.records import ClientResult

pytestmark = pytest.mark.slow
Edit = Callable[[Path], object]
ACT = {"chunk_size": 8, "n_action_steps": 4, "dim_model": 32, "n_heads": 2, "dim_feedforward": 32}
ACT |= {"n_encoder_layers": 1, "n_decoder_layers": 1}
VQBET = {
    "crop_shape": [48, 48],
    "pretrained_backbone_weights": "null",
    "gpt_n_layer": 1,
    "gpt_n_head": 2,
    "vqvae_enc_hidden_dim": 16,
}
VQBET |= {f"gpt_{name}_dim": 32 for name in ("hidden", "input", "output")}
ONE_CAMERA = {
    "observation.state": {"type": "STATE", "shape": [6]},
    "observation.images.front": {"type": "VISUAL", "shape": [3, 64, 64]},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return adapter(tmp_path_factory.mktemp("made") / "adapter")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is there but what a test makes, and nobody answers."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("torch.hub.download_url_to_file", _no_network)


def _no_network(url: str, *_: Any, **__: Any) -> None:
    from urllib.error import URLError

    raise URLError(f"no route to {url}")


def config(outputs: Path, **changes: Any) -> RunConfig:
    one = {"clients": [{"name": "mine", "repo_id": "zk0/mine", "root": "asset:datasets/unseen"}]}
    few = {"num_rounds": 1, "min_train_clients": 1}
    return validate_config(small_run(outputs, **one, **{"federation": few, **changes}))


def tried(wanted: RunConfig) -> Trial:
    fetch.fetch_policy(wanted)
    return try_policy(wanted)


def without_mean(folder: Path) -> None:
    nothing = {"observation.state.mean": np.full(6, np.nan, np.float32)}
    edit_tensors(folder, lambda old: old | nothing, f"{STATS[0]}.safetensors")


def begun(wanted: RunConfig, name: str) -> tuple[RunStore, ClientResult]:
    """A run of which nothing is done but what makes its first tensors; in this process."""
    store = RunStore.create_or_open(wanted, name)
    return store, run_task(store.task("init", 0, "server"))


def from_scratch(outputs: Path, kind: str, **overrides: Any) -> RunConfig:
    policy = {"type": kind, "device": "cpu", "overrides": overrides}
    return config(outputs, policy=policy, peft__enabled=False, data__normalization="federated")


@pytest.mark.parametrize(
    ("edit", "normalization", "words"),
    [
        (keyed_by_dataset, "base", r"kept by dataset \('so100.buffer.*choose data.normalization = 'federated'"),
        (keyed_by_dataset, "own", r"kept by dataset \('so100.buffer"),
        (keyed_by_dataset, "federated", None),
        (without_mean, "base", r"the statistic observation.state.mean is NaN or infinite"),
        (lambda folder: edit_tensors(folder, spoiled), "base", r"its weights are damaged: model\..* has NaN"),
        (
            lambda folder: edit_json(folder, max_state_dim=16),
            "base",
            r"state_proj.weight has shape .*\[128, 8\]\) in the",
        ),
        (lambda folder: edit_json(folder, later=1), "base", r"config.json does not fit LeRobot .*fields `later`"),
        (lambda folder: edit_json(folder, chunk_size=None), "base", r"does not fit LeRobot .*\(chunk_size is null\)"),
        (lambda folder: edit_json(folder, chunk_size="x"), "base", r"does not fit LeRobot .*`chunk_size`: Couldn't"),
        (lambda folder: edit_json(folder, n_action_steps=99), "base", r"does not fit LeRobot .*Got 99 for `n_action"),
        (lambda folder: edit_json(folder, type="smolvla2"), "base", r"type = 'smolvla2', .*did you mean 'smolvla'"),
        (lambda folder: edit_json(folder, remove=("use_cache", "n_obs_steps")), "base", None),
        (
            lambda folder: edit_tensors(folder, lambda old: {f"module.{k}": v for k, v in old.items()}),
            "base",
            "none of",
        ),
        (lambda folder: edit_tensors(folder, lambda old: {k: v.astype(np.int8) for k, v in old.items()}), "base", "I8"),
        (
            lambda folder: edit_tensors(folder, lambda old: {k: v.astype(np.float16) for k, v in old.items()}),
            "base",
            None,
        ),
    ],
)
def test_a_base_is_tried_before_the_run(tmp_path: Path, edit: Edit, normalization: str, words: str | None) -> None:
    edit(folder := base(tmp_path / "base"))
    wanted = config(tmp_path / "outputs", policy__path=str(folder), data__normalization=normalization)
    if words is None:
        assert (found := tried(wanted)).base_bytes == 0
        assert found.warnings == []
        return
    with pytest.raises(PolicyError, match=words):
        tried(wanted)


def test_weights_that_lack_some_begin_at_random_and_are_kept_with_the_run(tmp_path: Path) -> None:
    """As LeRobot loads them, but not without a word; and the final adapter has a base that says all of it."""
    folder = base(tmp_path / "base")
    edit_tensors(folder, lambda old: {name: old[name] for name in sorted(old)[1:]})
    wanted = config(tmp_path / "outputs", policy__path=str(folder))
    said = accepted(wanted.model_dump())
    assert re.search(r"policy +│ warning +│ .*lacks 1 of the policy's tensors \(model\.action_in_proj\.bias", said)
    store, _ = begun(wanted, "random")
    assert (
        load_file(store.folder / BASE_FOLDER / WEIGHTS).keys() == load_file(resolve_path("asset:base") / WEIGHTS).keys()
    )


@pytest.mark.parametrize(
    ("kind", "overrides", "words"),
    [
        ("diffusion", {}, r"policy.type = 'diffusion': a package is missing: .*pip install 'lerobot\[diffusion\]'"),
        ("act", {}, r"pretrained_backbone_weights = 'ResNet18.*cannot be fetched .*_weights = \"null\""),
        ("act", {**ACT, "pretrained_backbone_weights": "Foo"}, r"policy.type = 'act': it cannot be built \(KeyError"),
        ("act", {**ACT, "pretrained_backbone_weights": "null", "n_heads": 5}, r"divisible by num_heads"),
        ("smolvla", {}, r"vlm_model_name = 'HuggingFaceTB/.*neither a folder here nor can it be fetched"),
        ("tdmpc", {}, r"handles at most one image"),
        ("act", {**ACT, "pretrained_backbone_weights": "null", "input_features": ONE_CAMERA}, None),
        ("vqbet", {**VQBET, "input_features": ONE_CAMERA}, None),
    ],
)
def test_a_policy_from_scratch_is_built_before_the_run(
    tmp_path: Path, kind: str, overrides: dict[str, Any], words: str | None
) -> None:
    wanted = from_scratch(tmp_path / "outputs", kind, **overrides)
    if words is None:
        found = tried(wanted)
        assert list(found.policy.config.input_features) == list(ONE_CAMERA)
        assert 0.99 * found.base_bytes < found.exchanged_bytes <= found.base_bytes, (
            "all of it, codes and means included"
        )
        assert found.warnings == []
        assert room_needed(wanted, found.exchanged_bytes) < 2 * 2**30
        return
    with pytest.raises(PolicyError, match=words):
        tried(wanted)


@pytest.mark.parametrize(
    ("kind", "trains", "words"),
    [
        ("cpu", True, r"its weights and their gradients are 30\.\d\d"),
        ("cuda", False, r"its weights are 15\.\d\d"),
    ],
)
def test_a_policy_that_is_larger_than_memory_is_refused_before_it_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, trains: bool, words: str
) -> None:
    """pi0 has four thousand million parameters; which are counted in a second, without any."""
    monkeypatch.setattr(room, "_rooms", lambda _: [(14 * 2**30, "of this machine", trains)])
    said = rf"policy\.type = 'pi0' has 4,0\d\d million parameters: {words} GiB, and 14\.00 GiB of this machine are free"
    with pytest.raises(ConfigError, match=said):
        tried(from_scratch(tmp_path / "outputs", "pi0"))


def test_a_base_with_a_backbone_needs_no_weights_of_it(tmp_path: Path) -> None:
    """Every ACT that `lerobot-train` saved names them: they are in its own file."""
    store, _ = begun(from_scratch(tmp_path / "outputs", "act", **ACT, pretrained_backbone_weights="null"), "act")
    folder = store.folder / BASE_FOLDER
    edit_json(folder, pretrained_backbone_weights="ResNet18_Weights.IMAGENET1K_V1")
    changes: dict[str, Any] = {"peft__enabled": False, "data__normalization": "federated"}
    tried(config(tmp_path / "outputs", policy__path=str(folder), **changes))


def test_both_commands_refuse_in_the_same_words(tmp_path: Path, made: Path) -> None:
    lost = adapter(tmp_path / "lost", "/gone/base")
    data = small_run(tmp_path / "outputs", policy__path=str(lost))
    refused(data, r"policy\.path = .*lost'", "is an adapter, and its base is not there", "'/gone/base'")
    data["policy"] = {"type": "diffusion", "device": "cpu"}
    data |= {"peft": {"enabled": False}, "data": {"normalization": "federated"}}
    refused(data, r"policy\.type = 'diffusion'", r"pip install 'lerobot\[diffusion\]'")


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        ({"r": 2}, r"lora_[AB].* has shape .* in the file and .* by adapter_config.json"),
        ({"target_modules": ".*state_proj"}, r"does not fit its base: .*has no place in its base"),
        ({"base_model_name_or_path": "some/base"}, r"the base of this adapter: cannot be fetched"),
        ({"peft_type": "FOO"}, r"its weights cannot be loaded \(KeyError: 'FOO'\); correct peft_type"),
    ],
)
def test_an_adapter_that_does_not_fit_its_base(tmp_path: Path, edit: dict[str, Any], words: str) -> None:
    folder = adapter(tmp_path / "adapter")
    edit_json(folder, "adapter_config.json", **edit)
    with pytest.raises(PolicyError, match=words):
        tried(config(tmp_path / "outputs", policy__path=str(folder)))


def test_a_run_begins_from_the_adapter_and_gives_the_same_again(tmp_path: Path, made: Path) -> None:
    """Its base/ is the adapter's policy as LeRobot loads it, merged; and its final/ is an adapter on that."""
    wanted = config(tmp_path / "outputs", policy__path=str(made))
    first = zk0.run(wanted.model_dump(mode="json"), name="first")
    again, initial = begun(wanted, "again")
    assert initial.tensors is not None
    update = run_task(again.task("train", 1, "mine", RoundState(server_round=0, arrays=initial.tensors)))
    assert update.tensors is not None
    assert file_digest(first.path / BASE_FOLDER / WEIGHTS) == file_digest(again.folder / BASE_FOLDER / WEIGHTS)
    here, there = load_file(first.path / "rounds/0001/global.safetensors"), load_file(again.path(update.tensors))
    assert all(np.array_equal(value, there[name]) for name, value in here.items())
    theirs = as_lerobot_loads_it(made)
    merged = load_file(first.path / BASE_FOLDER / WEIGHTS)
    for name, value in theirs.merge_and_unload().state_dict().items():
        assert np.array_equal(merged[name], value.numpy())
    bare = load_file(resolve_path("asset:base") / WEIGHTS)
    changed = {name for name, value in bare.items() if not np.array_equal(value, merged[name])}
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in changed} == {"q_proj", "v_proj", "state_proj"}
    assert first.final is not None
    says = json.loads((first.final / "adapter_config.json").read_text())
    assert says["base_model_name_or_path"] == str(first.path / BASE_FOLDER)
    as_lerobot_loads_it(first.final)
    whole = tried(config(tmp_path / "outputs", policy__path=str(first.final), peft__enabled=False))
    assert whole.exchanged_bytes > 2**22, "all of the policy is trained, as if it had never been adapted"


@pytest.mark.exhaustive  # two runs of two rounds; what it holds together is held apart by cheaper tests
def test_a_run_on_an_adapter_that_is_killed_in_its_second_round_gives_the_same_bytes(
    tmp_path: Path, made: Path
) -> None:
    """base/ is not made again, and the adapter is not merged twice."""
    wanted = config(tmp_path / "outputs", policy__path=str(made), federation__num_rounds=2)
    (file := tmp_path / "config.toml").write_text(tomli_w.dumps(wanted.model_dump(mode="json", exclude_none=True)))
    here = tmp_path / "outputs" / "killed"
    code = f"import zk0\nif __name__ == '__main__':\n    zk0.run({str(file)!r}, name='killed')"
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    until((here / "rounds/0002/clients/mine/progress.json").is_file, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = (here / BASE_FOLDER / WEIGHTS).stat()
    assert not (here / "rounds/0002/manifest.json").exists()
    zk0.run(file, name="killed")
    after = (here / BASE_FOLDER / WEIGHTS).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    quiet = zk0.run(file, name="quiet").path
    files = [f"{BASE_FOLDER}/{WEIGHTS}", "final/adapter_model.safetensors"]
    for path in [*files, *(f"rounds/{server_round:04d}/global.safetensors" for server_round in range(3))]:
        assert file_digest(here / path) == file_digest(quiet / path), path


def until(seen: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 400
    while not seen():
        assert process.poll() is None, "it has ended"
        assert time.monotonic() < deadline, "not seen in time"
        time.sleep(0.02)


def as_lerobot_loads_it(folder: Path) -> Any:
    policy = PreTrainedConfig.from_pretrained(folder)
    policy.pretrained_path = folder
    meta = open_metadata(config(Path("outputs")).clients[0])
    return make_policy(policy, ds_meta=meta)


def test_a_run_that_began_from_the_bare_base_of_an_adapter_does_not_go_on(made: Path) -> None:
    policy = PolicyConfig(path=str(made), device="cpu")
    wanted = config(Path("outputs"))
    with pytest.raises(PolicyError, match=r"an earlier zk0 began this run from the base of that adapter"):
        build.build_policy(
            load_policy_config(policy, source_path(policy)), wanted.peft, open_metadata(wanted.clients[0]), {}
        )


def test_what_is_made_again_is_the_same_whatever_was_drawn_before(made: Path) -> None:
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        policy = PolicyConfig(path=str(made), device="cpu")
        plain = build.plain_policy(
            load_policy_config(policy, source_path(policy)), open_metadata(config(Path("outputs")).clients[0]), {}
        )
        states.append(plain.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
