"""A `pretrained_model` folder as people bring it: what LeRobot would fail on, or pass over, named by its files.

Light on purpose: reads headers and JSON, without torch, so that what is wrong is said at once.
"""

import json
import zipfile
from pathlib import Path
from typing import Any

from huggingface_hub.constants import CONFIG_NAME, SAFETENSORS_SINGLE_FILE
from safetensors import SafetensorError, safe_open

from zk0.data.hub import is_hub_id
from zk0.errors import PolicyError, first_line
from zk0.layout import FINAL, RUN_FILE

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
"""What PEFT reads, the first one that is there."""
PROCESSORS = ("policy_preprocessor.json", "policy_postprocessor.json")
MAKE_THEIR_PROCESSORS = ("groot",)
"""Policies for which LeRobot makes what is not there."""
POINTER = b"version https://git-lfs"
"""How a git-lfs pointer begins, which lies in place of a file that was not pulled."""
POINTER_BYTES = 1024
"""No pointer is longer."""
DEPTHS = ("*", "*/*", "checkpoints/*/pretrained_model")
"""Where inside a policy is looked for, to propose it; the last is how `lerobot-train` leaves it."""
OF_TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json")
"""What transformers reads of a tokenizer and processor, where it is there."""
THEIRS = "lerobot"
"""How LeRobot's package is called, and how the names of its plug-ins begin."""
TORCH_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.ckpt")
INSIDE_MODEL = ("normalize_inputs.", "unnormalize_outputs.", "normalize_targets.", "input_normalizer.", "normalizer.")
"""How LeRobot before 0.4 named the statistics that it kept among the weights."""
MIGRATE = "python -m lerobot.processor.migrate_policy_normalization --pretrained-path {0} --output-dir {0}_migrated"
"""LeRobot's own converter of such checkpoints."""


def check_pretrained(folder: Path, named: str, plugin: str | None = None) -> None:
    """Refuse a folder that holds no policy which LeRobot can load: config, weights or adapter, processors.

    Args:
        folder: where it lies, or is expected.
        named: how the config names it, such as `policy.path = 'x'`: how every message begins.
        plugin: policy.plugin.

    Raises:
        PolicyError: names the file and the remedy.
    """
    config = read_config(folder, named)
    _check_pointers(folder, named)
    if config.get("use_peft"):
        _check_adapter(folder, named)
    else:
        _check_weights(folder, named)
    if config["type"] not in MAKE_THEIR_PROCESSORS:
        for name in PROCESSORS:
            _check_processor(folder, name, named, plugin)


def read_config(folder: Path, named: str) -> dict[str, Any]:
    """The config.json of a policy's folder, which must be one of LeRobot's.

    Raises:
        PolicyError: it is not there, cannot be read, or is something else.
    """
    if not (folder / CONFIG_NAME).is_file():
        _refuse_place(folder, named)
    config = read_json(folder / CONFIG_NAME, named)
    if not isinstance(config.get("type"), str):
        kind = "of a model of transformers" if {"model_type", "architectures"} & config.keys() else "without a type"
        raise PolicyError(
            f"{named}: {CONFIG_NAME} is {kind}, no LeRobot policy's (type = {config.get('type')!r}); give a folder "
            'that LeRobot saved, whose config.json says "type": "smolvla" or the like'
        )
    return config


def read_json(path: Path, named: str) -> dict[str, Any]:
    """A JSON object of a policy's folder.

    Raises:
        PolicyError: it cannot be read, or is none.
    """
    _check_pointer(path, named)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise PolicyError(
            f"{named}: {path.name} cannot be read ({first_line(error)}); restore it from the original"
        ) from error
    if not isinstance(found, dict):
        raise PolicyError(f"{named}: {path.name} holds no JSON object; restore it from the original")
    return found


def adapter_base(folder: Path, named: str) -> str:
    """What an adapter was trained on: a folder, or an id of the hub.

    Raises:
        PolicyError: it does not say, or the folder is not there.
    """
    base = read_json(folder / ADAPTER_CONFIG, named).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise PolicyError(
            f"{named}: {ADAPTER_CONFIG} has base_model_name_or_path = {base!r}, so that nobody knows the policy that "
            "the adapter belongs to; write its folder or hub id there"
        )
    if not is_hub_id(base) and not Path(base).is_dir():
        raise PolicyError(
            f"{named}: it is an adapter, and its base is not there ({ADAPTER_CONFIG}: base_model_name_or_path = "
            f"{base!r}); put the base there, or write there where it lies"
        )
    return base


def check_adapter_base(base: Path, named: str) -> None:
    """Refuse a base of an adapter without what LeRobot reads of it, the weights.

    Raises:
        PolicyError: names the file and the remedy.
    """
    of_base = f"{named}: the base of this adapter, {str(base)!r}"
    _check_pointers(base, of_base)
    if (base / CONFIG_NAME).is_file() and read_config(base, of_base).get("use_peft"):
        raise PolicyError(
            f"{of_base}, is an adapter itself, which LeRobot cannot load under another; merge that one first "
            "(`zk0 export --merge`), and write the merged folder into base_model_name_or_path"
        )
    _check_weights(base, of_base)


def check_model(folder: Path, named: str) -> None:
    """Refuse the folder of a model of transformers, on which a policy builds, whose JSON files are cut or pointers.

    Raises:
        PolicyError: names the file and the remedy.
    """
    for name in (CONFIG_NAME, *OF_TOKENIZERS):
        if name == CONFIG_NAME or (folder / name).exists():
            read_json(folder / name, named)


def _refuse_place(folder: Path, named: str) -> None:
    """Say what lies where a policy's folder was expected."""
    nothing = f"{named}: no LeRobot policy can be read there"
    if folder.is_file():
        raise PolicyError(f"{nothing} (it is a file); give the folder that holds it, {str(folder.parent)!r}")
    if not folder.is_dir():
        raise PolicyError(
            f"{nothing} (there is no such folder, {str(folder)!r}); give a pretrained_model folder with config.json "
            "and model.safetensors, or a hub id"
        )
    if (folder / RUN_FILE).is_file():
        raise PolicyError(f"{nothing} (it is a run of zk0); give its policy, {str(folder / FINAL)!r}")
    inside = sorted(
        (found.parent for depth in DEPTHS for found in folder.glob(f"{depth}/{CONFIG_NAME}") if _is_policys(found)),
        key=lambda path: (path.parent.name != "last", path.name != "pretrained_model", str(path)),
    )
    if inside:
        raise PolicyError(f"{nothing} (it has no {CONFIG_NAME}); a policy lies inside it: give {str(inside[0])!r}")
    if (folder / ADAPTER_CONFIG).is_file():
        raise PolicyError(
            f"{nothing} (it has an adapter, and no {CONFIG_NAME} of LeRobot's); copy {CONFIG_NAME} and the "
            "policy_*processor* files beside it from the checkpoint that it belongs to"
        )
    raise PolicyError(
        f"{nothing} (it has no {CONFIG_NAME}); give a pretrained_model folder with config.json and "
        "model.safetensors, or a hub id"
    )


def _is_policys(path: Path) -> bool:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and isinstance(found.get("type"), str)


def _check_pointers(folder: Path, named: str) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            _check_pointer(path, named)


def _check_pointer(path: Path, named: str) -> None:
    try:
        if path.stat().st_size > POINTER_BYTES:
            return
        with path.open("rb") as file:
            pointer = file.read(len(POINTER)) == POINTER
    except OSError as error:
        raise PolicyError(f"{named}: {path.name} cannot be read ({first_line(error)}); restore it") from error
    if pointer:
        raise PolicyError(
            f"{named}: {path.name} is a git-lfs pointer, not the file itself; run `git lfs pull` in {path.parent}"
        )


def _check_adapter(folder: Path, named: str) -> None:
    """Refuse an adapter that is not whole, or whose base is not."""
    if not (folder / ADAPTER_CONFIG).is_file():
        raise PolicyError(
            f'{named}: {CONFIG_NAME} says "use_peft": true, and there is no {ADAPTER_CONFIG}; copy the adapter there '
            'from where it was saved, or, if the weights are whole, write "use_peft": false'
        )
    weights = next((folder / name for name in ADAPTER_WEIGHTS if (folder / name).is_file()), None)
    if weights is None:
        raise PolicyError(
            f"{named}: it is an adapter without weights (neither {' nor '.join(ADAPTER_WEIGHTS)}); copy them there "
            "from where it was saved"
        )
    if weights.suffix == ".safetensors":
        _check_safetensors(weights, named)
    else:
        _check_torch_file(weights, named)
    adapter_base(folder, named)


def _check_weights(folder: Path, named: str) -> None:
    """Refuse a folder whose weights are not there, in another format, or cut."""
    path = folder / SAFETENSORS_SINGLE_FILE
    if path.is_file():
        _check_safetensors(path, named)
        return
    other = sorted(item.name for pattern in TORCH_WEIGHTS for item in folder.glob(pattern))
    parts = sorted(item.name for item in folder.glob("*.safetensors") if "processor" not in item.name)
    if path.is_symlink() or path.exists():
        kind = "a link to what is not there" if not path.exists() else "no plain file"
        raise PolicyError(f"{named}: {path.name} is {kind}; copy it there from the checkpoint")
    if (folder / ADAPTER_CONFIG).is_file():
        why = f'it is an adapter, and {CONFIG_NAME} does not say so; write "use_peft": true there'
    elif parts:
        why = (
            f"there is {', '.join(parts[:3])}, and LeRobot reads one file alone; join them with safetensors' "
            f"load_file and save_file into {SAFETENSORS_SINGLE_FILE}"
        )
    elif other:
        why = (
            f"there is {other[0]}, which LeRobot does not read; save its tensors with safetensors' save_file as "
            f"{SAFETENSORS_SINGLE_FILE}"
        )
    else:
        why = "copy it there from the checkpoint, or give another folder"
    raise PolicyError(f"{named}: no {SAFETENSORS_SINGLE_FILE}: {why}")


def _check_safetensors(path: Path, named: str) -> list[str]:
    """The names of its tensors; refuses a file that is cut or empty."""
    try:
        with safe_open(path, framework="np") as file:
            names = list(file.keys())
    except (OSError, SafetensorError, ValueError) as error:
        raise PolicyError(
            f"{named}: {path.name} cannot be read as safetensors ({first_line(error)}): it is cut, or something else; "
            "copy it again from the original"
        ) from error
    if not names:
        raise PolicyError(f"{named}: {path.name} holds no tensors; copy it again from the original")
    return names


def _check_torch_file(path: Path, named: str) -> None:
    """Refuse what `torch.save` has not written, or what is cut: torch would speak of pickles."""
    if not zipfile.is_zipfile(path):
        raise PolicyError(
            f"{named}: {path.name} is no file of torch's, or cut; copy it again from the original, or give "
            f"{ADAPTER_WEIGHTS[0]}"
        )


def _check_processor(folder: Path, name: str, named: str, plugin: str | None) -> None:
    """Refuse a folder without one of the two pipelines, or without what one of its steps needs.

    LeRobot calls whatever a step names as its class, `os.system` too: only its own, and those that somebody here has
    installed as its plug-ins or named, are let through.
    """
    if not (folder / name).is_file():
        raise PolicyError(f"{named}: no {name}: {_without_processors(folder)}")
    steps = read_json(folder / name, named).get("steps")
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise PolicyError(f"{named}: {name} has no list of steps; copy it again from the checkpoint")
    for step in steps:
        package = str(step.get("class") or THEIRS).partition(".")[0]
        if not package.startswith(THEIRS) and package != (plugin or "").partition(".")[0]:
            raise PolicyError(
                f"{named}: {name} has a step of the class {step['class']!r}, which is not LeRobot's: it would be "
                f"called; if you trust it, set policy.plugin = {package!r}"
            )
        state = step.get("state_file")
        if state is None:
            continue
        if not (folder / str(state)).is_file():
            raise PolicyError(
                f"{named}: {name} needs {state}, which is not there; copy it there from the checkpoint, with all "
                "policy_*processor* files"
            )
        _check_safetensors(folder / str(state), named)


def _without_processors(folder: Path) -> str:
    weights = folder / SAFETENSORS_SINGLE_FILE
    if weights.is_file() and any(name.startswith(INSIDE_MODEL) for name in _check_safetensors(weights, "")):
        return (
            "LeRobot before 0.4 saved it, with the statistics among the weights; migrate a copy by "
            f"`{MIGRATE.format(folder)}` and give that"
        )
    return (
        "copy all policy_*processor* files there from the checkpoint; where there never were any, LeRobot makes them: "
        f"`{MIGRATE.format(folder)}`"
    )
