"""zk0.learning.checkpoint: a restored fit ends with the bytes of an undisturbed one, whatever happened to the files."""

import errno
import hashlib
import math
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from loguru import logger
from torch import nn
from torch.amp.grad_scaler import GradScaler

from zk0.errors import StorageError
from zk0.files import untrusted
from zk0.layout import MANIFEST
from zk0.learning.checkpoint import FitCheckpoint, LiveFit
from zk0.work.records import ClientTask

STEPS = 7


class Net(nn.Module):
    """Dropout, running statistics, a frozen part and a weight in another memory order."""

    def __init__(self, *, target: bool = False) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.first.weight.data = self.first.weight.data.to(memory_format=torch.channels_last)
        self.norm = nn.BatchNorm2d(4)
        self.frozen = nn.Linear(4, 4)
        self.frozen.requires_grad_(False)
        self.last = nn.Linear(4, 1)
        if target:
            self.update = lambda: self.frozen.weight.data.add_(self.last.weight.data.mean())

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        hidden = self.norm(self.first(frames)).mean((2, 3))
        return self.last(nn.functional.dropout(self.frozen(hidden), 0.3)).pow(2).mean()


def seeded(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - libraries draw from the global one
    torch.manual_seed(seed)


def fresh(
    dtype: torch.dtype = torch.float32, optimizer: str = "AdamW", *, target: bool = False, scaled: bool = False
) -> LiveFit:
    seeded(3)
    policy = Net(target=target).to(dtype)
    trainable = [value for value in policy.parameters() if value.requires_grad]
    made = getattr(torch.optim, optimizer)(trainable, lr=0.1, **({"momentum": 0.9} if optimizer == "SGD" else {}))
    schedule = torch.optim.lr_scheduler.LambdaLR(made, lambda step: 0.5 * (1 + math.cos(math.pi * step / STEPS)))
    # Grows at every second step, until a gradient overflows and the step is left out.
    scaler = GradScaler("cpu", init_scale=2.0**120, growth_interval=2) if scaled else None
    return LiveFit(policy, made, schedule, scaler)


def advance(fit: LiveFit, until: int, checkpoint: FitCheckpoint | None = None) -> LiveFit:
    """Steps that draw from all three generators; one Gaussian number each leaves the other of the pair pending."""
    while fit.step < until:
        policy: Any = fit.policy
        dtype = policy.last.weight.dtype
        frames = torch.randn(4, 3, 5, 5, dtype=dtype) + random.gauss()
        frames += float(np.random.normal())  # noqa: NPY002 - as above
        loss = fit.policy(frames)
        if fit.scaler is None:
            loss.backward()
            fit.optimizer.step()
        else:
            fit.scaler.scale(100 * loss).backward()
            fit.scaler.step(fit.optimizer)
            fit.scaler.update()
        fit.optimizer.zero_grad()
        fit.scheduler.step()
        if hasattr(policy, "update"):
            policy.update()
        fit.losses.append(loss.item())
        if checkpoint is not None:
            checkpoint.after_step(fit)
    return fit


def digest(fit: LiveFit) -> str:
    scale = fit.scaler and fit.scaler.state_dict()
    hasher = hashlib.sha256(repr((fit.losses, fit.scheduler.get_last_lr(), scale)).encode())
    moments = fit.optimizer.state_dict()["state"]
    state = {f"{index}.{name}": value for index, own in moments.items() for name, value in own.items()}
    for name, value in sorted((state | fit.policy.state_dict()).items()):
        hasher.update(name.encode() + value.detach().float().numpy().tobytes())
    return hasher.hexdigest()


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def task(tmp_path: Path) -> ClientTask:
    return ClientTask(
        run_dir=str(tmp_path), run_id="r", config_digest="d", kind="train", server_round=1, client="kitchen"
    )


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    lines: list[str] = []
    handle = logger.add(lambda message: lines.append(message.record["message"]), level="WARNING")
    yield lines
    logger.remove(handle)


def resumed(task: ClientTask, make: Callable[[], LiveFit] = fresh) -> tuple[int, LiveFit]:
    """What a new process does: a fresh fit, the checkpoint, the steps that are left."""
    fit = make()
    seeded(99)  # the wrong place, where no checkpoint corrects it
    if not (FitCheckpoint(task).folder / MANIFEST).exists():
        seeded(4)
    FitCheckpoint(task).restore(fit)
    start = fit.step
    if not start:
        seeded(4)
    return start, advance(fit, STEPS)


def undisturbed(make: Callable[[], LiveFit] = fresh) -> str:
    fit = make()
    seeded(4)
    return digest(advance(fit, STEPS))


@pytest.mark.parametrize("killed_after", range(1, STEPS))
@pytest.mark.parametrize(
    "make",
    [
        fresh,
        lambda: fresh(torch.bfloat16),
        lambda: fresh(optimizer="SGD"),
        lambda: fresh(optimizer="NAdam"),
        lambda: fresh(target=True),
        lambda: fresh(scaled=True),
    ],
    ids=["fp32", "bf16", "sgd", "nadam", "moving-average", "scaled"],
)
def test_a_restored_fit_ends_with_the_same_bytes(task: ClientTask, make: Callable[[], LiveFit], killed_after: int):
    fit = make()
    seeded(4)
    advance(fit, killed_after, FitCheckpoint(task, 2))
    start, again = resumed(task, make)
    assert start == killed_after // 2 * 2
    assert digest(again) == undisturbed(make)


def test_the_scale_of_the_loss_moves_in_these_tests():
    fit = fresh(scaled=True)
    seeded(4)
    scales = []
    for step in range(1, STEPS + 1):
        advance(fit, step)
        scales.append(fit.scaler.get_scale())
    assert len(set(scales)) > 2
    assert scales != sorted(scales)


def test_a_checkpoint_without_the_scale_does_not_serve_a_fit_that_scales(task: ClientTask, warnings: list[str]):
    advance(fresh(), 4, FitCheckpoint(task, 2))
    fit = fresh(scaled=True)
    FitCheckpoint(task).restore(fit)
    assert fit.step == 0
    assert "another policy or optimizer" in warnings[0]


def test_the_state_keeps_every_dtype_and_layout(task: ClientTask):
    fit = fresh(torch.bfloat16)
    advance(fit, 2, FitCheckpoint(task, 2))
    other = fresh(torch.bfloat16)
    FitCheckpoint(task).restore(other)
    policy: Any = other.policy
    moment = other.optimizer.state[policy.first.weight]["exp_avg"]
    assert moment.dtype == torch.bfloat16
    assert moment.stride() == policy.first.weight.stride() != moment.contiguous().stride()
    assert other.optimizer.param_groups[0]["betas"] == (0.9, 0.999)
    assert other.losses == fit.losses


def test_saving_changes_nothing_and_keeps_only_the_newest(task: ClientTask):
    fit = fresh()
    seeded(4)
    assert digest(advance(fit, STEPS, FitCheckpoint(task, 1))) == undisturbed()
    names = {path.name for path in FitCheckpoint(task).folder.iterdir()}
    assert names == {MANIFEST, f"{STEPS:08d}.json", f"{STEPS:08d}.safetensors"}


def test_zero_saves_nothing_and_still_restores(task: ClientTask):
    advance(fresh(), STEPS, FitCheckpoint(task, 0))
    assert not FitCheckpoint(task).folder.exists()
    fit = fresh()
    seeded(4)
    advance(fit, 2, FitCheckpoint(task, 2))
    assert resumed(task)[0] == 2


def damaged(path: Path) -> Iterator[None]:
    """Truncate to several lengths, flip bits all over, replace, delete: the file is put back before each."""
    whole = path.read_bytes()
    for size in (0, 1, 8, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        yield
    for place in sorted({int(part / 16 * (len(whole) - 1)) for part in range(17)}):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        yield
    path.write_bytes(b"[]")
    yield
    path.unlink()
    yield
    path.unlink()
    path.mkdir()
    yield


@pytest.mark.parametrize("suffix", ["manifest.json", "00000004.json", ".safetensors"])
def test_a_damaged_file_costs_steps_and_nothing_else(task: ClientTask, suffix: str, warnings: list[str]):
    fit = fresh()
    seeded(4)
    advance(fit, 5, FitCheckpoint(task, 2))
    folder, backup = FitCheckpoint(task).folder, Path(task.run_dir) / "backup"
    shutil.copytree(folder, backup)
    expected, cases = undisturbed(), 0
    path = next(path for path in folder.iterdir() if path.name.endswith(suffix))
    for _ in damaged(path):
        start, again = resumed(task)
        assert start in (0, 4)  # 4: a bit flipped in white space of the manifest
        assert digest(again) == expected
        cases += 1
        assert folder.exists() is (start == 4), "of no use, and still there"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(backup, folder)
    assert cases > 20
    assert len(warnings) >= cases - 3
    assert all("cannot serve" in line for line in warnings)


@pytest.mark.parametrize("suffix", ["manifest.json", "00000004.json", ".safetensors"])
def test_a_file_that_cannot_be_read_now_ends_the_fit_and_costs_nothing(
    task: ClientTask, suffix: str, monkeypatch: pytest.MonkeyPatch
):
    advance(fresh(), 5, FitCheckpoint(task, 2))
    folder = FitCheckpoint(task).folder
    before, opened = sorted(path.read_bytes() for path in folder.iterdir()), untrusted.open_plain

    def odd(path: Path, *arguments: int, **options: bool) -> int:
        if path.name.endswith(suffix):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return opened(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(untrusted, "open_plain", odd)
        with pytest.raises(StorageError, match="Input/output error; check that disk"):
            FitCheckpoint(task, 2).restore(fresh())
    assert sorted(path.read_bytes() for path in folder.iterdir()) == before
    assert resumed(task)[0] == 4


@pytest.mark.parametrize(
    "change",
    [{"server_round": 2}, {"config_digest": "other"}, {"run_id": "other"}, {"client": "study"}, {"proximal_mu": 0.5}],
    ids=lambda change: next(iter(change)),
)
def test_the_checkpoint_of_another_fit_is_ignored(task: ClientTask, change: dict[str, object], warnings: list[str]):
    other = task.model_copy(update=change)
    advance(fresh(), 4, FitCheckpoint(other, 2))
    if other.folder != task.folder:
        shutil.copytree(other.folder, task.folder)
    start, fit = resumed(task)
    assert start == 0
    assert digest(fit) == undisturbed()
    assert "another fit" in warnings[0]


def test_a_checkpoint_that_does_not_fit_the_policy_is_ignored(task: ClientTask, warnings: list[str]):
    advance(fresh(torch.bfloat16), 4, FitCheckpoint(task, 2))
    start, fit = resumed(task)
    assert start == 0
    assert digest(fit) == undisturbed()
    assert "another policy or optimizer" in warnings[0]


def test_a_full_disk_does_not_end_the_fit(task: ClientTask, monkeypatch: pytest.MonkeyPatch, warnings: list[str]):
    fit = fresh()
    seeded(4)
    checkpoint = FitCheckpoint(task, 2)
    advance(fit, 2, checkpoint)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        advance(fit, 5, checkpoint)
    assert "No checkpoint at step 4" in warnings[0]
    assert digest(advance(fit, STEPS)) == undisturbed()
    start, again = resumed(task)
    assert (start, digest(again)) == (2, undisturbed())


def die_at(number: int) -> None:
    """SIGKILL this process before its n-th sync, rename or removal."""
    count = 0

    def counted(function: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            nonlocal count
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return call

    names = ((os, "fsync"), (Path, "replace"), (Path, "unlink"), (Path, "rename"))
    for place, name in names:
        setattr(place, name, counted(getattr(place, name)))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("first", [True, False], ids=["the-first", "a-later-one"])
def test_a_kill_at_any_moment_of_writing_leaves_a_whole_checkpoint_or_none(task: ClientTask, first: bool):
    expected, starts = undisturbed(), []
    for number in range(1, 100):
        shutil.rmtree(task.folder, ignore_errors=True)
        fit = fresh()
        seeded(4)
        checkpoint = FitCheckpoint(task, 2)
        advance(fit, 1 if first else 3, checkpoint)
        advance(fit, 2 if first else 4)
        generator = random.getstate()
        child = os.fork()  # torch cannot train in a fork, but it can save
        if not child:
            random.setstate(generator)  # Python seeds it anew after a fork
            die_at(number)
            checkpoint.after_step(fit)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        start, again = resumed(task)
        assert digest(again) == expected
        starts.append(start)
        if os.WIFEXITED(status):
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
    before, after = (0, 2) if first else (2, 4)
    assert starts == sorted(starts)
    assert set(starts) == {before, after}
    assert len(starts) > 6


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_kill_while_it_is_removed_is_harmless(task: ClientTask):
    for number in range(1, 20):
        advance(fresh(), 2, FitCheckpoint(task, 2))
        child = os.fork()
        if not child:
            die_at(number)
            FitCheckpoint(task).remove()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert resumed(task)[0] in (0, 2)
        if os.WIFEXITED(status):
            break
    FitCheckpoint(task).remove()
    assert list(task.folder.iterdir()) == []
