"""Folders that hold no whole policy: each is named by its file, with what to do, before torch is even loaded."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.bases import POINTER, STATS, WEIGHTS, base, edit_json, edit_tensors
from zk0.config import resolve_path
from zk0.errors import PolicyError
from zk0.preflight.pretrained import ADAPTER_CONFIG, check_adapter_base, check_model, check_pretrained

NAMED = "policy.path = 'mine'"
Edit = Callable[[Path], object]


def within(*parts: str) -> Edit:
    """The policy lies further inside."""

    def move(folder: Path) -> None:
        inside = folder.with_name("moved")
        folder.rename(inside)
        folder.joinpath(*parts).parent.mkdir(parents=True)
        inside.rename(folder.joinpath(*parts))

    return move


def emptied(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def old_format(folder: Path) -> None:
    for path in folder.glob("policy_*"):
        path.unlink()
    edit_tensors(folder, lambda old: {**old, "normalize_inputs.buffer_observation_state.mean": np.zeros(6)})


def sharded(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "model-00001-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text("{}")


def an_adapter(base_name: object = "/gone/base", *, says_so: bool = True) -> Edit:
    """As an adapter's folder, without a base."""

    def change(folder: Path) -> None:
        (folder / WEIGHTS).rename(folder / "adapter_model.safetensors")
        (folder / ADAPTER_CONFIG).write_text("{}")
        edit_json(folder, ADAPTER_CONFIG, base_model_name_or_path=base_name)
        edit_json(folder, use_peft=says_so)

    return change


def then(*edits: Edit) -> Edit:
    return lambda folder: [edit(folder) for edit in edits]


def unlink(name: str) -> Edit:
    return lambda folder: (folder / name).unlink()


def a_step_of(kind: object) -> Edit:
    """LeRobot would call it."""
    step = {"class": kind, "config": {"command": "touch called"}}

    def change(folder: Path) -> None:
        steps = json.loads((folder / "policy_preprocessor.json").read_text())["steps"]
        edit_json(folder, "policy_preprocessor.json", steps=[*steps, step])

    return change


def dangling(name: str) -> Edit:
    return lambda folder: (folder / name).symlink_to("/gone/blob")


def write(name: str, content: bytes) -> Edit:
    return lambda folder: (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (shutil.rmtree, "no LeRobot policy can be read there (there is no such folder"),
        (
            a_step_of("os.system"),
            "policy_preprocessor.json has a step of the class 'os.system', which is not LeRobot's: it would be called;",
        ),
        (a_step_of(7), "has a step of the class 7, which is not LeRobot's"),
        (then(unlink(WEIGHTS), dangling(WEIGHTS)), f"{WEIGHTS} is a link to what is not there; copy it there"),
        (then(unlink(WEIGHTS), lambda folder: (folder / WEIGHTS).mkdir()), f"{WEIGHTS} is no plain file; copy it"),
        (
            then(
                an_adapter(),
                unlink("adapter_model.safetensors"),
                write("adapter_model.bin", b"\x80\x02cpickle\nattack\n."),
            ),
            "adapter_model.bin is no file of torch's, or cut; copy it again",
        ),
        (emptied, "no LeRobot policy can be read there (it has no config.json); give a pretrained_model folder"),
        (within("pretrained_model"), "a policy lies inside it: give '{at}/pretrained_model'"),
        (within("checkpoints", "last", "pretrained_model"), "give '{at}/checkpoints/last/pretrained_model'"),
        (then(emptied, write("run.json", b"{}")), "(it is a run of zk0); give its policy, '{at}/final'"),
        (then(an_adapter(), unlink("config.json")), "it has an adapter, and no config.json of LeRobot's"),
        (unlink(WEIGHTS), "no model.safetensors: copy it there from the checkpoint"),
        (lambda folder: (folder / WEIGHTS).rename(folder / "pytorch_model.bin"), "there is pytorch_model.bin, which"),
        (sharded, "there is model-00001-of-00002.safetensors, and LeRobot reads one file alone"),
        (write(WEIGHTS, POINTER), "model.safetensors is a git-lfs pointer, not the file itself; run `git lfs pull` in"),
        (write(f"{STATS[0]}.safetensors", POINTER), f"{STATS[0]}.safetensors is a git-lfs pointer"),
        (write("config.json", POINTER), "config.json is a git-lfs pointer"),
        (write("vlm/tokenizer.json", POINTER), "tokenizer.json is a git-lfs pointer"),
        (write(WEIGHTS, b"\x08\0\0\0\0\0\0\0{}      "), "model.safetensors holds no tensors"),
        (write(WEIGHTS, b"PK" * 4000), "model.safetensors cannot be read as safetensors ("),
        (write("config.json", b'{"type"'), "config.json cannot be read (Expecting"),
        (write("config.json", b"[]"), "config.json holds no JSON object"),
        (write("config.json", b'{"model_type": "llama"}'), "config.json is of a model of transformers"),
        (lambda folder: edit_json(folder, remove=("type",)), "config.json is without a type"),
        (unlink("policy_preprocessor.json"), "no policy_preprocessor.json: copy all policy_*processor* files there"),
        (unlink("policy_postprocessor.json"), "no policy_postprocessor.json: copy all policy_*processor* files there"),
        (
            old_format,
            "migrate a copy by `python -m lerobot.processor.migrate_policy_normalization --pretrained-path {at}",
        ),
        (unlink(f"{STATS[1]}.safetensors"), f"policy_postprocessor.json needs {STATS[1]}.safetensors, which is not"),
        (write("policy_preprocessor.json", b'{"steps": 3}'), "policy_preprocessor.json has no list of steps"),
        (lambda folder: edit_json(folder, use_peft=True), '"use_peft": true, and there is no adapter_config.json'),
        (then(an_adapter(), unlink("adapter_model.safetensors")), "an adapter without weights (neither adapter_model"),
        (then(an_adapter(), write("adapter_model.safetensors", b"x")), "adapter_model.safetensors cannot be read"),
        (an_adapter(says_so=False), 'it is an adapter, and config.json does not say so; write "use_peft": true'),
        (an_adapter(), "its base is not there (adapter_config.json: base_model_name_or_path = '/gone/base')"),
        (an_adapter(None), "has base_model_name_or_path = None, so that nobody knows"),
    ],
)
def test_what_is_not_whole_is_named_with_its_remedy(tmp_path: Path, edit: Edit, words: str) -> None:
    folder = base(tmp_path / "mine")
    edit(folder)
    with pytest.raises(PolicyError) as error:
        check_pretrained(folder, NAMED)
    assert words.replace("{at}", str(folder)) in str(error.value)
    assert str(error.value).startswith(NAMED)


def test_a_step_of_a_package_that_somebody_here_has_named_passes(tmp_path: Path) -> None:
    for kind in ("lerobot.processor.pipeline.IdentityProcessorStep", "my_policies.steps.Step", None):
        a_step_of(kind)(folder := base(tmp_path / str(kind)))
        check_pretrained(folder, "policy.path = 'x'", "my_policies")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "cannot be read"), (b'{"a', "cannot be read"), (b"[]", "no JSON"), (POINTER, "lfs pull")],
)
def test_a_model_that_a_policy_builds_on_is_whole(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    folder = base(tmp_path / "base") / "vlm"
    check_model(folder, "policy.path = 'x'")
    (folder / name).write_bytes(content)
    with pytest.raises(PolicyError, match=rf"policy\.path = 'x': {name} .*{words}"):
        check_model(folder, "policy.path = 'x'")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"it is a file\); give the folder that holds it"):
        check_pretrained(base(tmp_path / "mine") / WEIGHTS, NAMED)


def test_a_base_of_an_adapter_needs_its_weights_and_must_be_none_itself(tmp_path: Path) -> None:
    whole = base(tmp_path / "whole")
    check_adapter_base(whole, NAMED)
    (whole / "policy_preprocessor.json").unlink()
    (whole / "config.json").unlink()
    check_adapter_base(whole, NAMED)  # LeRobot reads neither
    other = base(tmp_path / "other")
    an_adapter()(other)
    with pytest.raises(PolicyError, match=r"'.*other', is an adapter itself.*zk0 export --merge"):
        check_adapter_base(other, NAMED)
    (whole / WEIGHTS).unlink()
    with pytest.raises(PolicyError, match=r"the base of this adapter, '.*whole': no model.safetensors"):
        check_adapter_base(whole, NAMED)


def test_what_is_whole_passes() -> None:
    check_pretrained(resolve_path("asset:base"), NAMED)
