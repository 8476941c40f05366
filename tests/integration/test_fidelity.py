"""One client, one round, nothing on the server: a fit is `lerobot-train`, step by step and to the last bit.

LeRobot's own `train` runs first, as a whole; where its first update begins, weights and generators are noted, and the
fit starts from there. Each pair runs in a process of its own: LeRobot sets up logging and cuDNN for all of its process.
"""

import copy
import os
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from accelerate import Accelerator
from lerobot.configs.default import DatasetConfig as LeRobotDatasetConfig
from lerobot.configs.default import PeftConfig as LeRobotPeftConfig
from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.train import TrainPipelineConfig
from lerobot.datasets.io_utils import write_stats
from lerobot.optim.factory import make_optimizer_and_scheduler
from lerobot.scripts import lerobot_train
from lerobot.utils.constants import REWARD
from lerobot.utils.logging_utils import AverageMeter, MetricsTracker
from lerobot.utils.random_utils import set_seed

from tests.bases import adapter
from tests.recordings import edit_info, edit_rows, shipped
from tests.robots import robot
from zk0.aggregation.server_round import ServerRound
from zk0.config import DatasetConfig, ExecutorConfig, RunConfig, resolve_path
from zk0.data.datasets import build_dataset, open_metadata
from zk0.data.statistics import episode_statistics, with_imagenet
from zk0.executors.process import ProcessExecutor
from zk0.files import atomic
from zk0.learning import training
from zk0.learning.build import build_policy, plain_policy
from zk0.learning.exchange import exchanged_tensors, load_exchanged_tensors, update_tensors
from zk0.learning.policy import (
    base_path,
    for_joints,
    load_policy_config,
    new_policy_config,
    policy_features,
    save_pretrained,
)
from zk0.learning.processors import build_processors, saved_processors
from zk0.work.records import ClientResult

MakeConfig = Callable[..., RunConfig]
Tensors = dict[str, np.ndarray]
pytestmark = pytest.mark.slow

SEED, STEPS, BATCH = 11, 5, 16
EPISODES = [0]
"""One short episode: the steps are more than one pass over it."""
ACT = {"chunk_size": 8, "n_action_steps": 4, "dim_model": 32, "n_heads": 2, "dim_feedforward": 32, "dropout": 0.2}
ACT |= {"n_encoder_layers": 1, "n_decoder_layers": 1, "pretrained_backbone_weights": None}
ONE_CAMERA = {
    "observation.state": {"type": "STATE", "shape": [6]},
    "observation.images.front": {"type": "VISUAL", "shape": [3, 64, 64]},
}
VQBET = {"crop_shape": "null", "pretrained_backbone_weights": "null", "gpt_n_layer": 1, "gpt_n_head": 2}
VQBET |= {f"gpt_{name}_dim": 32 for name in ("hidden", "input", "output")} | {"vqvae_enc_hidden_dim": 16}
VQBET |= {"use_group_norm": False, "n_vqvae_training_steps": 2, "input_features": ONE_CAMERA}
"""With batch normalisation, codes, and flags that end the first phase after the second step."""
TDMPC = {"latent_dim": 8, "mlp_dim": 16, "q_ensemble_size": 2, "horizon": 2, "input_features": ONE_CAMERA}
"""With a slower copy of itself."""
POLICIES: dict[str, dict[str, Any]] = {
    "act": {
        "policy": {"type": "act", "device": "cpu", "overrides": ACT},
        "peft__enabled": False,
        "data__normalization": "federated",
    },
    "smolvla-full": {"peft__enabled": False},
    "smolvla-lora": {},
    "smolvla-lora-bf16": {"training__amp": "bf16"},
    "smolvla-lora-7-joints": {},
    "smolvla-lora-on-an-adapter": {},
    "vqbet": {
        "policy": {"type": "vqbet", "device": "cpu", "overrides": VQBET},
        "peft__enabled": False,
        "data__normalization": "federated",
    },
    "tdmpc": {
        "policy": {"type": "tdmpc", "device": "cpu", "overrides": TDMPC},
        "peft__enabled": False,
        "data__normalization": "federated",
    },
}
FEW = 2
"""Steps where a kind differs from another in what it begins from alone."""

KINDS = [kind for kind in POLICIES if kind != "smolvla-full"]


@dataclass
class Trace:
    """What a training told and left."""

    losses: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    grad_norms: list[float] = field(default_factory=list)
    weights: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass
class Start:
    """Where LeRobot's first update began."""

    weights: dict[str, torch.Tensor]
    python: Any
    numpy: Any
    torch: torch.Tensor


def lerobot(config: RunConfig, base: PreTrainedConfig, folder: Path) -> tuple[Trace, Start]:
    """Run LeRobot's `train`; its `update_policy` is watched, not changed."""
    item, trace = config.clients[0], Trace()
    starts: list[Start] = []
    update, models = lerobot_train.update_policy, []

    def watched(tracker: MetricsTracker, model: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        if not starts:
            weights = copy.deepcopy(model.state_dict())
            starts.append(Start(weights, random.getstate(), np.random.get_state(), torch.get_rng_state()))  # noqa: NPY002
            models.append(model)
        told = update(tracker, model, *args, **kwargs)
        trace.losses.append(tracker.loss.val)
        trace.rates.append(tracker.lr.val)
        trace.grad_norms.append(tracker.grad_norm.val)
        return told

    lerobot_train.update_policy = watched
    plan = TrainPipelineConfig(
        dataset=LeRobotDatasetConfig(
            item.repo_id, root=str(resolve_path(str(item.root))), episodes=EPISODES, video_backend="pyav"
        ),
        policy=base,
        peft=LeRobotPeftConfig(r=config.peft.r, lora_alpha=config.peft.lora_alpha) if config.peft.enabled else None,
        output_dir=folder / "lerobot",
        seed=SEED,
        steps=config.training.steps,
        batch_size=config.training.batch_size,
        num_workers=0,
        save_checkpoint=False,
    )
    os.chdir(resolve_path("asset:base"))  # its tokenizer's name is a relative path
    lerobot_train.train(plan)
    trace.weights = arrays(models[0])
    return trace, starts[0]


def arrays(model: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: value.detach().float().numpy().copy() for name, value in model.state_dict().items()}


def zk0(config: RunConfig, base: PreTrainedConfig, start: Start, seed: int, folder: Path) -> Trace:
    """The fit of the same steps from the same start, and what a round makes of it."""
    item = config.clients[0]
    meta = open_metadata(item)
    built = build_policy(copy.deepcopy(base), config.peft, meta, item.rename_map)
    built.load_state_dict(start.weights)
    # LeRobot normalises by the statistics of the whole dataset, of hold-outs too.
    before, _ = build_processors(base, with_imagenet(meta.stats, meta), item.rename_map)
    frames = build_dataset(item, meta, built.config, config.data, EPISODES)
    random.setstate(start.python)
    np.random.set_state(start.numpy)  # noqa: NPY002
    torch.set_rng_state(start.torch)
    local = training.LocalRound(seed=seed, first_step=0, total_steps=config.training.steps)
    per_pass = -(-len(frames) // config.training.batch_size)

    def after(step: int, _loss: float) -> None:
        # The one difference: at the start of a pass over the data LeRobot's DataLoader draws a number, of which nothing
        # becomes, from the global generator. The fit's has a generator of its own, so that a resumed one need not.
        if step % per_pass == 0:
            torch.empty((), dtype=torch.int64).random_()

    first = exchanged_tensors(built)
    outcome = training.fit(built, before, frames, config.training, local, after)
    final = build_policy(base, config.peft, meta, item.rename_map)
    final.load_state_dict(start.weights)  # as base/ and the global tensors of round 0 have them
    load_exchanged_tensors(final, through_a_round(config, first, update_tensors(built, config, first.keys()), folder))
    return Trace(outcome.losses, [outcome.lr], [outcome.grad_norm], arrays(final))


def through_a_round(config: RunConfig, first: Tensors, update: Tensors, folder: Path) -> Tensors:
    """The global tensors after a round in which one client alone sent an update."""
    alone = config.federation.model_copy(update={"min_train_clients": 1})
    config = config.model_copy(update={"clients": config.clients[:1], "federation": alone})
    atomic.write_tensors(folder / "global.safetensors", first)
    digest = atomic.write_tensors(folder / "update.safetensors", update)
    result = ClientResult.model_validate(
        {
            "key": "",
            "kind": "train",
            "server_round": 1,
            "client": config.clients[0].name,
            "num_examples": 1,
            "metrics": {},
            "duration_s": 1.0,
            "peak_rss_bytes": 1,
            "pid": 1,
            "tensors": {"path": "update.safetensors", "sha256": digest.sha256, "size": digest.size},
        }
    )
    return ServerRound(config, 1, folder / "global.safetensors").aggregate([result], folder).tensors


def compared(config: RunConfig, folder: str, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """In a process of its own: LeRobot's trace, and that of a fit with the data in the order of a seed."""
    torch.set_num_threads(1)
    item = config.clients[0]
    if config.policy.path is None:
        base = new_policy_config(config.policy, policy_features(open_metadata(item), {}))
    else:
        base = load_policy_config(config.policy, base_path(config.policy, Path()))
    if base.use_peft:  # LeRobot itself would go on with that adapter: it begins where its merged policy lies
        base = as_base(config, base, Path(folder) / "base")
    whose = copy.deepcopy(base)
    whose.use_amp = config.training.amp == "bf16"  # where LeRobot reads it: on a CPU it is bf16
    theirs, start = lerobot(config, whose, Path(folder))
    if config.policy.path is None:  # our processors are read from a base, which LeRobot would have saved
        base = as_base(config, base, Path(folder) / "base")
    for_joints(base, policy_features(open_metadata(item), {}))
    return asdict(theirs), asdict(zk0(config, base, start, seed, Path(folder)))


def as_base(config: RunConfig, made: PreTrainedConfig, folder: Path) -> PreTrainedConfig:
    """A policy from scratch, or an adapter's, as a run keeps it."""
    save_pretrained(plain_policy(made, open_metadata(config.clients[0]), {}), *saved_processors(made), folder)
    return load_policy_config(config.policy, str(folder))


def rewarded(target: Path) -> Path:
    """A recording with what TD-MPC learns from besides."""
    root = shipped(target)
    edit_rows(root, lambda rows: rows.append_column(REWARD, pa.array([0.5] * len(rows), pa.float32())))
    edit_info(root, lambda info: info["features"].update({REWARD: {"dtype": "float32", "shape": [1], "names": None}}))
    return root


@pytest.mark.parametrize("kind", [pytest.param("smolvla-full", marks=pytest.mark.exhaustive), *KINDS])
def test_the_trace_is_that_of_lerobot_train(small_config: MakeConfig, tmp_path: Path, kind: str) -> None:
    changes, steps = dict(POLICIES[kind]), STEPS
    if kind.endswith("7-joints"):
        names = [f"joint_{place}.pos" for place in range(6)] + ["gripper.pos"]
        root = robot(tmp_path / "arm", lambda values: values[:, [0, 1, 2, 3, 4, 0, 5]], names)
        arm = DatasetConfig(name="arm", repo_id="me/arm", root=str(root))
        meta = open_metadata(arm)
        write_stats(episode_statistics(meta, list(range(meta.total_episodes))), root)  # which LeRobot normalises by
        changes["clients"] = [arm.model_dump()]
        changes["federation__min_train_clients"], steps = 1, FEW
    elif kind == "tdmpc":
        arm = DatasetConfig(name="arm", repo_id="me/arm", root=str(rewarded(tmp_path / "arm")))
        changes["clients"], changes["federation__min_train_clients"], steps = [arm.model_dump()], 1, FEW
    elif kind.endswith("adapter"):
        changes["policy__path"], steps = str(adapter(tmp_path / "adapter")), FEW
    config = small_config(training={"steps": steps, "batch_size": BATCH}, **changes)
    assert config.training.lr is None, "LeRobot trains by the policy's preset"
    theirs, ours = ProcessExecutor(ExecutorConfig()).call(compared, config, str(tmp_path), SEED)
    assert len(theirs["losses"]) == steps
    assert ours["losses"] == theirs["losses"]
    assert (ours["rates"], ours["grad_norms"]) == (theirs["rates"][-1:], theirs["grad_norms"][-1:])
    assert ours["weights"].keys() == theirs["weights"].keys()
    assert [name for name, value in ours["weights"].items() if not np.array_equal(value, theirs["weights"][name])] == []


def test_another_order_of_the_data_shows(small_config: MakeConfig, tmp_path: Path) -> None:
    """The test above can fail."""
    config = small_config(training={"steps": 2, "batch_size": BATCH}, **POLICIES["act"])
    theirs, ours = ProcessExecutor(ExecutorConfig()).call(compared, config, str(tmp_path), SEED + 1)
    assert not set(ours["losses"]) & set(theirs["losses"])


ROUNDS, ROUND_STEPS = 3, 2


def in_rounds(config: RunConfig) -> tuple[Trace, list[Any]]:
    """Rounds of one client with nothing between them; gives the batches, too."""
    item, trace, batches, moments = config.clients[0], Trace(), [], None
    base = load_policy_config(config.policy, base_path(config.policy, Path()))
    set_seed(SEED)
    built = build_policy(base, config.peft, open_metadata(item), item.rename_map)
    before, _ = build_processors(base, None, item.rename_map)
    frames = build_dataset(item, open_metadata(item), built.config, config.data, EPISODES)
    update = lerobot_train.update_policy

    def watched(tracker: MetricsTracker, model: torch.nn.Module, batch: Any, *args: Any, **kwargs: Any) -> Any:
        batches.append(copy.deepcopy(batch))
        told = update(tracker, model, batch, *args, **kwargs)
        trace.rates.append(tracker.lr.val)
        return told

    patch = pytest.MonkeyPatch()
    patch.setattr(training, "update_policy", watched)
    for number in range(ROUNDS):
        set_seed(SEED + number)
        local = training.LocalRound(
            seed=SEED + number,
            first_step=number * ROUND_STEPS,
            total_steps=ROUNDS * ROUND_STEPS,
            optimizer_state=moments,
        )
        outcome = training.fit(built, before, frames, config.training, local)
        moments = outcome.optimizer_state
        trace.losses += outcome.losses
    patch.undo()
    trace.weights = arrays(built)
    return trace, batches


def in_one_go(config: RunConfig, batches: list[Any]) -> Trace:
    """The same batches and seeds through LeRobot's own optimizer, schedule and update, made once."""
    item, trace = config.clients[0], Trace()
    base = load_policy_config(config.policy, base_path(config.policy, Path()))
    set_seed(SEED)
    built = build_policy(base, config.peft, open_metadata(item), item.rename_map)
    plan = TrainPipelineConfig(
        dataset=LeRobotDatasetConfig(item.repo_id, video_backend="pyav"), policy=built.config, steps=len(batches)
    )
    plan.optimizer, plan.scheduler = built.config.get_optimizer_preset(), built.config.get_scheduler_preset()
    optimizer, scheduler = make_optimizer_and_scheduler(plan, built)
    accelerator = Accelerator(step_scheduler_with_optimizer=False, cpu=True)
    meters = {name: AverageMeter(name) for name in ("loss", "grad_norm", "lr", "update_s")}
    tracker = MetricsTracker(config.training.batch_size, 1, 1, meters, accelerator=accelerator)
    for step, batch in enumerate(batches):
        if step % ROUND_STEPS == 0:
            set_seed(SEED + step // ROUND_STEPS)
        clip = plan.optimizer.grad_clip_norm
        lerobot_train.update_policy(tracker, built, batch, optimizer, clip, accelerator, lr_scheduler=scheduler)
        trace.losses.append(tracker.loss.val)
        trace.rates.append(tracker.lr.val)
    trace.weights = arrays(built)
    return trace


def rounds_compared(config: RunConfig) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    torch.set_num_threads(1)
    kept, batches = in_rounds(config)
    fresh = config.training.model_copy(update={"optimizer_state": "fresh"})
    forgetful, _ = in_rounds(config.model_copy(update={"training": fresh}))
    return asdict(kept), asdict(in_one_go(config, batches)), asdict(forgetful)


def test_rounds_with_a_kept_optimizer_are_one_training(small_config: MakeConfig) -> None:
    """One schedule over all rounds and Adam's moments carried: bit for bit as if there were no rounds."""
    config = small_config(training={"steps": ROUND_STEPS, "batch_size": BATCH, "optimizer_state": "keep"})
    kept, whole, forgetful = ProcessExecutor(ExecutorConfig()).call(rounds_compared, config)
    assert (kept["losses"], kept["rates"]) == (whole["losses"], whole["rates"])
    assert len(kept["losses"]) == ROUNDS * ROUND_STEPS
    assert all(np.array_equal(value, whole["weights"][name]) for name, value in kept["weights"].items())
    assert forgetful["rates"] == whole["rates"]
    same = [one == other for one, other in zip(forgetful["losses"], whole["losses"], strict=True)]
    assert same == [True] * (ROUND_STEPS + 1) + [False] * (len(same) - ROUND_STEPS - 1)
