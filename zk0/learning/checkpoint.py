"""The state of a fit on disk, saved every few steps: a killed fit goes on from there and ends with the same bytes.

`checkpoint/` in the task's folder holds the two files of one step, `<step>.safetensors` with every tensor that a step
changes and `<step>.json` with the numbers beside them, and `manifest.json`, which names both by their digests. A new
step's files lie beside the old ones until the manifest, written last, names them: one checkpoint is whole at any time.
"""

import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loguru import logger
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from zk0.errors import DamageError, StorageError
from zk0.files import atomic, untrusted
from zk0.files.tensors import DTYPES
from zk0.layout import FIT_CHECKPOINT, MANIFEST
from zk0.learning import optimizer_state
from zk0.work.records import ArtifactRef, ClientTask, Record

_SAME_WIDTH = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Bytes of an element -> the integer that carries the bits of a dtype that numpy lacks (bfloat16, float8)."""


@dataclass
class LiveFit:
    """A fit under way: all that its steps change, beside the generators of random numbers."""

    policy: nn.Module
    """Its trainable parameters and its buffers change; where it has an `update` of its own, all parameters may."""
    optimizer: Optimizer
    """Over parameters of the policy."""
    scheduler: LRScheduler | None
    """Of that optimizer."""
    scaler: GradScaler | None = None
    """Scales the loss, in fp16."""
    losses: list[float] = field(default_factory=list)
    """Loss of every step done."""
    data_s: float = 0.0
    """Seconds spent on batches so far."""
    update_s: float = 0.0
    """Seconds spent on updates so far."""

    @property
    def step(self) -> int:
        """Steps done."""
        return len(self.losses)


class FitState(Record):
    """`<step>.json`: what is no tensor."""

    losses: list[float]
    """Loss of every step done; their number is the position in the order of the data, too."""
    data_s: float
    """LiveFit.data_s."""
    update_s: float
    """LiveFit.update_s."""
    groups: list[dict[str, Any]]
    """The optimizer's parameter groups without the parameters: learning rates and options."""
    values: dict[str, Any]
    """Entries of the optimizer's state that are no tensors, by the name that a tensor would have."""
    scheduler: dict[str, Any] | None
    """The scheduler's `state_dict`."""
    scaler: dict[str, Any] | None = None
    """The scaler's `state_dict`."""
    python_rng: list[Any]
    """`random.getstate()`: version, words, the second half of a pair of Gaussian numbers."""
    numpy_rng: list[Any]
    """numpy's global generator, in the same manner."""
    dtypes: dict[str, str]
    """torch dtype of the tensors that the safetensors file holds as integers of the same width."""


class FitManifest(Record):
    """`manifest.json`, written last: which files are the checkpoint, and of which fit."""

    key: str
    """ClientTask.key of the fit."""
    tensors: ArtifactRef
    """`policy.<name>`, `optimizer.<index>.<entry>` and the states of torch's generators, `rng.<device>`."""
    state: ArtifactRef
    """FitState."""


class FitCheckpoint:
    """Where one fit keeps its checkpoint. Only the worker that holds the task's lock may use it.

    Args:
        task: the fit.
        every_steps: steps from one checkpoint to the next; 0 writes none.
    """

    def __init__(self, task: ClientTask, every_steps: int = 0) -> None:
        self.folder = task.folder / FIT_CHECKPOINT
        self._run_dir = Path(task.run_dir)
        self._key = task.key
        self._every_steps = every_steps
        self._saved_step: int | None = None
        self._whole: set[str] = set()  # names of the files of the whole checkpoint

    def restore(self, fit: LiveFit) -> None:
        """Bring a fresh fit to where its checkpoint is; a checkpoint that cannot serve is named in the log and removed.

        torch's, numpy's and Python's global generators are set too, so nothing may draw from them before the next step.

        Raises:
            StorageError: it cannot be read now; it stays.
        """
        if not atomic.is_there(self.folder):
            return
        try:
            state, tensors = self._read(fit)
        except DamageError as error:
            logger.warning("The fit starts at its first step, its checkpoint cannot serve: {}", _without_remedy(error))
            self.remove()
            return
        _restore_policy(fit.policy, tensors)
        named = {name: value for name, value in {**state.values, **tensors}.items() if name.startswith("optimizer.")}
        entries = {name.removeprefix("optimizer."): value for name, value in named.items()}
        optimizer_state.restore(fit.optimizer, entries, state.groups)
        if fit.scheduler is not None and state.scheduler is not None:
            fit.scheduler.load_state_dict(state.scheduler)
        if fit.scaler is not None and state.scaler is not None:
            fit.scaler.load_state_dict(state.scaler)
        fit.losses, fit.data_s, fit.update_s = list(state.losses), state.data_s, state.update_s
        _restore_generators(state, tensors)
        logger.info("The fit goes on after step {}, from its checkpoint", fit.step)

    def after_step(self, fit: LiveFit) -> None:
        """Save the fit where a checkpoint is due; one that cannot be written is a warning, for the fit needs none."""
        if self._every_steps and fit.step % self._every_steps == 0:
            self.save(fit)

    def save(self, fit: LiveFit) -> None:
        """Save the fit now, in the same manner."""
        if fit.step == self._saved_step:
            return
        started = time.perf_counter()
        try:
            size = self._write(fit)
        except StorageError as error:
            logger.warning("No checkpoint at step {}: {}", fit.step, _without_remedy(error))
        else:
            self._saved_step = fit.step
            logger.debug("Checkpoint at step {}: {} bytes, {:.4f} s", fit.step, size, time.perf_counter() - started)

    def remove(self) -> None:
        """Remove it, when the result is durable; what cannot be removed is a warning, for it does no harm."""
        self._whole = set()
        try:
            with atomic.storage_errors(self.folder, "removed"):
                if untrusted.is_there(self.folder):
                    atomic.remove_folder(self.folder)
        except StorageError as error:
            logger.warning("A checkpoint that is of no use stays: {}", _without_remedy(error))

    def _write(self, fit: LiveFit) -> int:
        """Write the files of this step, then the manifest, then remove the files of the step before; gives bytes."""
        self._sweep()  # what an attempt that failed has left
        entries = {f"optimizer.{name}": value for name, value in optimizer_state.entries(fit.optimizer).items()}
        tensors = {name: value for name, value in entries.items() if isinstance(value, torch.Tensor)}
        values = {name: value for name, value in entries.items() if name not in tensors}
        tensors |= {f"policy.{name}": value for name, value in _changing(fit.policy).items()} | _torch_generators()
        version, words, pending = random.getstate()
        state = FitState(
            losses=fit.losses,
            data_s=fit.data_s,
            update_s=fit.update_s,
            groups=[{key: group[key] for key in group if key != "params"} for group in fit.optimizer.param_groups],
            values=values,
            scheduler=None if fit.scheduler is None else fit.scheduler.state_dict(),
            scaler=None if fit.scaler is None else fit.scaler.state_dict(),
            python_rng=[version, list(words), pending],
            numpy_rng=_numpy_generator(),
            dtypes={name: str(value.dtype).removeprefix("torch.") for name, value in tensors.items() if _odd(value)},
        )
        arrays = {name: _bits(value.detach()).cpu().numpy() for name, value in tensors.items()}
        paths = [self.folder / f"{fit.step:08d}.{suffix}" for suffix in ("safetensors", "json")]
        digests = [atomic.write_tensors(paths[0], arrays), atomic.write_json(paths[1], state.model_dump(mode="json"))]
        refs = [
            ArtifactRef(path=path.relative_to(self._run_dir).as_posix(), sha256=digest.sha256, size=digest.size)
            for path, digest in zip(paths, digests, strict=True)
        ]
        manifest = FitManifest(key=self._key, tensors=refs[0], state=refs[1])
        atomic.write_sealed(self.folder / MANIFEST, manifest.model_dump(mode="json"))
        self._whole = {path.name for path in paths}
        self._sweep()
        return sum(digest.size for digest in digests)

    def _read(self, fit: LiveFit) -> tuple[FitState, dict[str, torch.Tensor]]:
        """Read and check everything before anything of the fit is changed.

        Raises:
            DamageError: no manifest, another fit's, a file that is not what it was, or a state that does not fit.
        """
        path = self.folder / MANIFEST
        with atomic.storage_errors(path, "read"):
            manifest = FitManifest.model_validate(atomic.read_sealed(path))
        if manifest.key != self._key:
            raise DamageError(f"{path}: is of another fit, {manifest.key[:12]}...; this one is {self._key[:12]}...")
        for ref in (manifest.tensors, manifest.state):
            atomic.verify(self._run_dir / ref.path, ref.sha256)
        with atomic.storage_errors(self._run_dir / manifest.state.path, "read"):
            state = FitState.model_validate(atomic.read_json(self._run_dir / manifest.state.path))
        whole = self._run_dir / manifest.tensors.path
        tensors = {name: torch.from_numpy(array) for name, array in atomic.read_tensors(whole).items()}
        tensors |= {name: tensors[name].view(getattr(torch, dtype)) for name, dtype in state.dtypes.items()}
        if not _fits(fit, state, tensors):
            raise DamageError(f"{path}: was saved by a fit of another policy or optimizer")
        self._whole = {Path(ref.path).name for ref in (manifest.tensors, manifest.state)}
        return state, tensors

    def _sweep(self) -> None:
        """Remove what is not of the whole checkpoint, temporaries of a killed writer included."""
        with atomic.storage_errors(self.folder, "swept"):
            if untrusted.is_there(self.folder):
                untrusted.empty(self.folder, but=self._whole | {MANIFEST})


def _changing(policy: nn.Module) -> dict[str, torch.Tensor]:
    """Every tensor of a policy that a step may change, by name."""
    moves_frozen_ones = callable(getattr(policy, "update", None))  # such as a target network's moving average
    changing = {name: value for name, value in policy.named_parameters() if value.requires_grad or moves_frozen_ones}
    return changing | dict(policy.named_buffers())


def _restore_policy(policy: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, value in _changing(policy).items():
            value.copy_(tensors[f"policy.{name}"])


def _fits(fit: LiveFit, state: FitState, tensors: dict[str, torch.Tensor]) -> bool:
    """Whether a state can be put into a fit; with an equal key it can, unless the code or the base was replaced."""
    live = {f"policy.{name}": (value.shape, value.dtype) for name, value in _changing(fit.policy).items()}
    saved = {name: (value.shape, value.dtype) for name, value in tensors.items() if name.startswith("policy.")}
    alike = (len(state.groups), state.scheduler is None) == (len(fit.optimizer.param_groups), fit.scheduler is None)
    return live == saved and alike and (state.scaler is None) == (fit.scaler is None)


def _odd(value: torch.Tensor) -> bool:
    return str(value.dtype).removeprefix("torch.") not in DTYPES


def _bits(value: torch.Tensor) -> torch.Tensor:
    """The tensor, or where numpy lacks its dtype the same bits as integers."""
    return value.contiguous().view(_SAME_WIDTH[value.element_size()]) if _odd(value) else value


def _torch_generators() -> dict[str, torch.Tensor]:
    states = {"rng.cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states["rng.cuda"] = torch.cuda.get_rng_state()
    return states


def _numpy_generator() -> list[Any]:
    name, words, *rest = np.random.get_state()  # noqa: NPY002 - libraries draw from the global one
    return [str(name), np.asarray(words).tolist(), *rest]


def _restore_generators(state: FitState, tensors: dict[str, torch.Tensor]) -> None:
    version, words, pending = state.python_rng
    random.setstate((version, tuple(words), pending))
    name, keys, *rest = state.numpy_rng
    np.random.set_state((name, np.array(keys, np.uint32), *rest))  # noqa: NPY002 - as above
    torch.set_rng_state(tensors["rng.cpu"])
    if "rng.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["rng.cuda"])


def _without_remedy(error: StorageError) -> str:
    """The fault alone: what atomic advises is meant for a round."""
    return str(error).split(";", maxsplit=1)[0]
