"""What a container may see of this machine's disk, at the same paths: no more than its piece of work names."""

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import constants
from huggingface_hub.constants import CONFIG_NAME

from zk0.config import ASSET_PREFIX, DatasetConfig, RunConfig, resolve_path
from zk0.errors import ClientError
from zk0.layout import BASE_FOLDER, RUN_FILE, round_folder
from zk0.preflight.pretrained import ADAPTER_CONFIG, adapter_base, read_json
from zk0.work.records import ClientTask

LEROBOT_HOME = "/data/lerobot"
"""HF_LEROBOT_HOME inside a container: it holds the one dataset that the work is about."""
VLM = "vlm_model_name"
"""The field of LeRobot's configs that names a vision-language model, of the hub or in a folder."""
LEROBOT_REVISION = "v3.0"
"""The hub revision that LeRobot takes where none is given."""


class Bind(NamedTuple):
    """A file or folder of this machine as a container sees it."""

    target: str
    """Absolute path inside the container."""
    source: str
    """Absolute path on this machine."""
    writable: bool = False


def binds(task: ClientTask, config: RunConfig) -> list[Bind]:
    """Everything that a container of this work may see; only the work's own folder, and a new base, are writable.

    Raises:
        ClientError: a dataset of the hub is not on this machine (cause `bad_data`).
    """
    run = Path(task.run_dir)
    found = [_same(run / RUN_FILE), _same(task.folder, writable=True)]
    found += [_same(run / ref.path) for ref in (task.incoming, task.stats, task.optimizer) if ref is not None]
    found += _dataset(_dataset_of(task, config))
    found += _policy(task, config)
    if task.kind == "init" and config.continue_from is not None:
        found += _origin(config.continue_from, run.parent)
    found += [_same(Path(folder)) for folder in config.executor.docker.mounts]
    return sorted({bind.target: bind for bind in reversed(found)}.values())


def read_only_inputs(config: RunConfig) -> Iterator[Path]:
    """The folders of the user that the work needs as a whole: datasets with a root, a base and what it builds on."""
    for dataset in [*config.clients, *config.evaluation.datasets]:
        if dataset.root is not None and not dataset.root.startswith(ASSET_PREFIX):
            yield resolve_path(dataset.root)
    bases = _bases(config)
    yield from bases
    yield from _models(config, bases)


def unseen_mounts(folder: Path, config: RunConfig) -> list[Path]:
    """Where other file systems are mounted inside a folder: a container sees those that `mounts` names too."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []  # not Linux
    # A blank in a path is written as \040.
    points = [Path(re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), line.split()[4])) for line in lines]
    real = folder.resolve()
    inside = {folder.absolute() / point.relative_to(real) for point in points if real in point.parents}
    return sorted(inside - {Path(named) for named in config.executor.docker.mounts})


def environment() -> dict[str, str]:
    """Where the hub's libraries find what was fetched; inside, nothing is ever fetched."""
    return {
        "HF_HUB_CACHE": str(_hub_cache()),
        "TORCH_HOME": str(_torch_home()),
        "HF_LEROBOT_HOME": LEROBOT_HOME,
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
    }


def _dataset_of(task: ClientTask, config: RunConfig) -> DatasetConfig:
    """The dataset that the work reads; `init` is the server's own and looks at the first client's features."""
    known = {item.name: item for item in [*config.clients, *config.evaluation.datasets]}
    return config.clients[0] if task.kind == "init" else known[task.client]


def _dataset(dataset: DatasetConfig) -> list[Bind]:
    if dataset.root is None:
        return _hub_dataset(dataset)
    if dataset.root.startswith(ASSET_PREFIX):
        return []  # in the image
    return [_same(resolve_path(dataset.root))]


def _hub_dataset(dataset: DatasetConfig) -> list[Bind]:
    """A fetched dataset where LeRobot, offline, looks first; its files are links into the cache's `blobs`."""
    home = _lerobot_home()
    target = f"{LEROBOT_HOME}/{dataset.repo_id}"
    if (home / dataset.repo_id / "meta" / "info.json").is_file():
        return [Bind(target, str(home / dataset.repo_id))]
    cache = home / "hub" / f"datasets--{dataset.repo_id.replace('/', '--')}"
    revision = dataset.revision or LEROBOT_REVISION
    named = cache / "refs" / revision
    snapshot = cache / "snapshots" / (named.read_text(encoding="utf-8").strip() if named.is_file() else revision)
    if not (snapshot / "meta" / "info.json").is_file():
        raise ClientError(
            "bad_data",
            f"dataset {dataset.name!r}: {dataset.repo_id} is not on this machine ({snapshot} is missing), and "
            "containers have no network; `zk0 check-data` fetches it",
        )
    return [Bind(target, str(snapshot)), Bind(f"{LEROBOT_HOME}/blobs", str(cache / "blobs"))]


def _policy(task: ClientTask, config: RunConfig) -> list[Bind]:
    """Where the base lies: at policy.path, or in the run's own directory, where `init` may put one."""
    own, makes = Path(task.run_dir) / BASE_FOLDER, task.kind == "init"
    scratch = config.policy.path is None
    found = [_same(own, writable=makes)] if scratch or makes or own.is_dir() else []
    # Models are no recordings: a base may refer to others, such as its vision-language model, so all of them are seen.
    found += [_same(folder) for folder in sorted(_hub_cache().glob("models--*"))]
    if scratch and makes and (weights := _torch_home() / "hub" / "checkpoints").is_dir():
        found.append(_same(weights))  # where torchvision keeps the backbones that it has fetched
    bases = _bases(config)
    return [*found, *map(_same, bases), *map(_same, _models(config, [own, *bases]))]


def _bases(config: RunConfig) -> list[Path]:
    """The folders that a run begins from: that of policy.path, and where it is an adapter what that was trained on."""
    base = _local_base(config)
    return [] if base is None else [base, *_adapter_base(base)]


def _models(config: RunConfig, bases: Iterable[Path]) -> list[Path]:
    """The folders of other models that a policy builds on, as the config's overrides and its own config name them."""
    named = [value for value in config.policy.overrides.values() if isinstance(value, str) and os.sep in value]
    for base in bases:
        file = base / CONFIG_NAME
        if file.is_file():
            model = read_json(file, f"policy.path = {str(base)!r}").get(VLM)
            named += [model] if isinstance(model, str) and (Path(model) / CONFIG_NAME).is_file() else []
    return [Path(name).absolute() for name in dict.fromkeys(named) if Path(name).is_dir()]


def _adapter_base(base: Path) -> list[Path]:
    """The folder that an adapter was trained on, which `init` merges it into."""
    file = base / ADAPTER_CONFIG
    if not file.is_file():
        return []
    folder = Path(adapter_base(base, f"policy.path = {str(base)!r}"))
    return [folder.absolute()] if folder.is_dir() else []


def _local_base(config: RunConfig) -> Path | None:
    path = config.policy.path
    if path is None or path.startswith(ASSET_PREFIX) or not resolve_path(path).is_dir():
        return None
    return resolve_path(path).absolute()


def _origin(continue_from: str, outputs: Path) -> list[Bind]:
    """The round that a run continues from, as the run store verifies it."""
    name, _, number = continue_from.partition("@")
    return [_same(outputs / name / RUN_FILE), _same(round_folder(outputs / name, int(number)))]


def _same(path: Path, *, writable: bool = False) -> Bind:
    return Bind(str(path.absolute()), str(path.absolute()), writable)


def _hub_cache() -> Path:
    return Path(constants.HF_HUB_CACHE)


def _torch_home() -> Path:
    """TORCH_HOME, as torch.hub finds it."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"))
    return Path(os.environ.get("TORCH_HOME", cache / "torch")).expanduser()


def _lerobot_home() -> Path:
    """LeRobot's HF_LEROBOT_HOME, whose own module imports torch."""
    return Path(os.environ.get("HF_LEROBOT_HOME", Path(constants.HF_HOME) / "lerobot")).expanduser()
