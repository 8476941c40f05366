"""What a client computes: real datasets, the real tiny SmolVLA, LeRobot's own code beside ours."""

import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.utils.random_utils import set_seed

from zk0.aggregation.server_round import ServerRound
from zk0.client.export import save_policy
from zk0.client.inputs import read_tensors
from zk0.client.run import run_task
from zk0.config import RunConfig
from zk0.data.datasets import build_dataset, open_metadata, split_episodes
from zk0.data.statistics import aggregate, episode_statistics, flatten_stats, unflatten_stats
from zk0.errors import ConfigError, PolicyError
from zk0.learning import training
from zk0.learning.build import build_policy
from zk0.learning.evaluation import evaluate
from zk0.learning.exchange import exchanged_tensors, load_exchanged_tensors
from zk0.learning.policy import Policy, Processor, base_path, load_policy_config
from zk0.learning.processors import build_processors
from zk0.preflight import checks
from zk0.runs.records import RoundState
from zk0.runs.store import RunStore
from zk0.work.records import ClientResult, ClientTask

MakeConfig = Callable[..., RunConfig]
pytestmark = pytest.mark.slow


def load(config: RunConfig, index: int = 0) -> tuple[Policy, Processor, Processor, LeRobotDataset]:
    """The policy, its processors and the training episodes of a client, as `train` makes them."""
    dataset = config.clients[index]
    meta = open_metadata(dataset)
    base = load_policy_config(config.policy, base_path(config.policy, Path()))
    set_seed(1)
    built = build_policy(base, config.peft, meta, dataset.rename_map)
    before, after = build_processors(base, None, dataset.rename_map)
    episodes, _ = split_episodes(meta.total_episodes, config.evaluation.holdout_episodes)
    return built, before, after, build_dataset(dataset, meta, built.config, config.data, episodes)


def fit(
    config: RunConfig, mu: float = 0.0, first_step: int = 0, lr_scale: float = 1.0
) -> tuple[Policy, training.FitOutcome]:
    built, before, _, frames = load(config)
    set_seed(2)
    local = training.LocalRound(seed=3, first_step=first_step, total_steps=20, proximal_mu=mu, lr_scale=lr_scale)
    outcome = training.fit(built, before, frames, config.training, local)
    return built, outcome


def run_work(store: RunStore, kind: str, server_round: int, client: str, state: RoundState | None) -> ClientResult:
    task: ClientTask = store.task(kind, server_round, client, state)  # type: ignore[arg-type]
    return run_task(task)


def first_state(store: RunStore) -> RoundState:
    initial = run_work(store, "init", 0, "server", None)
    assert initial.tensors is not None
    return RoundState(server_round=0, arrays=initial.tensors)


def test_the_loss_falls_and_the_frozen_weights_stay(small_config: MakeConfig) -> None:
    config = small_config(training__steps=12, training__batch_size=8)
    built, *_ = load(config)
    frozen = {name: value.clone() for name, value in built.named_parameters() if not value.requires_grad}
    trained, outcome = fit(config)
    assert sum(outcome.losses[-3:]) < sum(outcome.losses[:3])
    assert all(torch.equal(frozen[name], value) for name, value in trained.named_parameters() if name in frozen)


def test_held_out_episodes_are_neither_trained_on_nor_counted(small_config: MakeConfig) -> None:
    config = small_config(evaluation__holdout_episodes=5)
    *_, frames = load(config)
    meta = open_metadata(config.clients[0])
    seen = {int(episode) for episode in frames.hf_dataset["episode_index"]}
    assert seen == set(range(meta.total_episodes - 5))
    stats = episode_statistics(meta, sorted(seen))
    actions = np.stack([np.asarray(action) for action in frames.hf_dataset["action"]])
    np.testing.assert_allclose(stats["action"]["mean"], actions.mean(0), atol=1e-3)
    np.testing.assert_allclose(stats["action"]["std"], actions.std(0), atol=1e-3)
    assert stats["action"]["count"] == [len(actions)]
    assert not np.allclose(stats["action"]["mean"], meta.stats["action"]["mean"], atol=1e-4), "would show no leak"


NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_GPU)])
def test_the_proximal_gradient_is_mu_times_the_distance(small_config: MakeConfig, device: str) -> None:
    """FedProx, eq. 2: the gradient of mu/2 ||w - w_t||^2 is mu (w - w_t), before the optimizer step."""
    mu = 0.7
    built, before, _, frames = load(small_config(policy__device=device))
    assert {value.device.type for value in built.parameters()} == {device}
    batch = training.prepare_batch(next(iter(torch.utils.data.DataLoader(frames, 2))), before, frames)
    wrapped = training.ProximalPolicy(built, mu)
    trainable = [value for value in built.parameters() if value.requires_grad]
    start = [value.detach().clone() for value in trainable]
    with torch.no_grad():
        for value in trainable:
            value.add_(torch.randn_like(value), alpha=0.01)

    def gradients(model: torch.nn.Module) -> list[torch.Tensor]:
        built.zero_grad()
        torch.manual_seed(0)
        model.forward(dict(batch))[0].backward()
        return [torch.zeros_like(value) if value.grad is None else value.grad.clone() for value in trainable]

    for plain, proximal, value, w_t in zip(gradients(built), gradients(wrapped), trainable, start, strict=True):
        torch.testing.assert_close(proximal - plain, mu * (value.detach() - w_t), atol=1e-5, rtol=1e-3)


def test_full_fine_tuning_trains_what_the_policy_says_and_sends_all_of_it(small_config: MakeConfig) -> None:
    """Beside LoRA: every trainable tensor travels and moves, what the policy freezes does not."""
    config = small_config(peft__enabled=False, training__steps=3)
    before, *_ = load(config)
    trainable = {name for name, value in before.named_parameters() if value.requires_grad}
    store = RunStore.create_or_open(config, "full")
    state = first_state(store)
    update = run_work(store, "train", 1, config.clients[0].name, state).tensors
    assert update is not None
    start, end = (read_tensors(store.folder, ref) for ref in (state.arrays, update))
    assert start.keys() == end.keys() == trainable
    moved = {name for name in trainable if not np.array_equal(start[name], end[name])}
    assert len(moved) > 0.9 * len(trainable)  # the last layer's text branch feeds nothing


def test_the_adaptive_factor_scales_the_learning_rate_under_the_schedule(small_config: MakeConfig) -> None:
    half = small_config(training__lr=5e-4)
    whole = small_config(training__lr=1e-3)
    for scheduler in ("preset", "constant"):
        expected, there = fit(
            half.model_copy(update={"training": half.training.model_copy(update={"scheduler": scheduler})})
        )
        scaled, here = fit(
            whole.model_copy(update={"training": whole.training.model_copy(update={"scheduler": scheduler})}),
            lr_scale=0.5,
        )
        assert here.lr == pytest.approx(there.lr)
        for name, value in exchanged_tensors(expected).items():
            np.testing.assert_allclose(exchanged_tensors(scaled)[name], value, atol=1e-6, err_msg=name)


def test_a_strong_proximal_term_keeps_the_client_near(small_config: MakeConfig) -> None:
    config = small_config(training__steps=6)
    start = exchanged_tensors(load(config)[0])

    def distance(mu: float) -> float:
        end = exchanged_tensors(fit(config, mu)[0])
        return math.sqrt(sum(float(((end[name] - start[name]) ** 2).sum()) for name in start))

    assert distance(100.0) < 0.9 * distance(0.0)


def test_the_schedule_spans_the_whole_run_and_is_not_restarted(small_config: MakeConfig) -> None:
    """Two rounds of ten steps end at the learning rate that one round of twenty ends at."""
    rates = [fit(small_config(training__steps=5), first_step=first)[1].lr for first in (0, 5, 10, 15)]
    assert rates[0] > rates[1] > rates[2] > rates[3] > 0
    once = fit(small_config(training__steps=20))[1].lr
    assert rates[3] == pytest.approx(once)


def test_scheduler_constant_keeps_the_rate(small_config: MakeConfig) -> None:
    outcome = fit(small_config(training__steps=3, training__scheduler="constant"), first_step=10)[1]
    assert outcome.lr == pytest.approx(1e-3)


def test_a_named_schedule_is_the_fits(small_config: MakeConfig) -> None:
    """Of a run of 20 steps, the rate after the 12th: half-way from 1e-3 to 2e-4, at 12/20 of a cosine."""
    keys = {"training__scheduler": "cosine", "training__decay_lr": 2e-4, "training__warmup_steps": 5}
    keys["federation__num_rounds"] = 10
    outcome = fit(small_config(training__steps=2, **keys), first_step=10)[1]
    assert outcome.lr == pytest.approx(2e-4 + 8e-4 * (1 + math.cos(math.pi * 12 / 20)) / 2)
    outcome = fit(small_config(training__steps=2, **keys), first_step=1)[1]
    assert outcome.lr == pytest.approx(1e-3 * 4 / 6)


def test_bf16_is_near_full_precision_and_leaves_the_weights_in_theirs(small_config: MakeConfig) -> None:
    """accelerate's autocast on the CPU; `test_fidelity` holds it against LeRobot's."""
    full = fit(small_config(training__steps=4))[1]
    AcceleratorState._reset_state()  # a worker has one precision for all its life
    try:
        built, outcome = fit(small_config(training__steps=4, training__amp="bf16"))
    finally:
        AcceleratorState._reset_state()
    assert outcome.losses != full.losses
    assert outcome.losses == pytest.approx(full.losses, rel=0.02)
    assert {value.dtype for value in built.parameters()} == {torch.float32}


@pytest.mark.gpu
@NEEDS_GPU
@pytest.mark.parametrize("clip", [None, 0])
def test_fp16_scales_the_loss_and_unscales_the_gradients(small_config: MakeConfig, clip: float | None) -> None:
    changes = {"training__steps": 4, "policy__device": "cuda", "training__grad_clip_norm": clip}
    full = fit(small_config(**changes))[1]
    AcceleratorState._reset_state()
    try:
        _, outcome = fit(small_config(**changes, training__amp="fp16"))
    finally:
        AcceleratorState._reset_state()
    assert outcome.losses != full.losses
    assert outcome.losses == pytest.approx(full.losses, rel=0.05)
    assert outcome.grad_norm == pytest.approx(full.grad_norm, rel=0.2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="auto is a GPU here")
@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_fp16_without_a_gpu_is_refused(small_config: MakeConfig, device: str) -> None:
    config = small_config(training__amp="fp16", policy__device=device)
    with pytest.raises(ConfigError, match=r"training.amp = 'fp16': needs a GPU .* use 'bf16' or 'no'"):
        checks.preflight(config)


def test_a_client_may_take_steps_of_its_own(small_config: MakeConfig) -> None:
    """Its schedule has its own length: half-way through the run the rate is the one of the others half-way."""
    config = small_config(training__steps=4, training__scheduler="cosine")
    config = config.model_copy(
        update={"clients": [config.clients[0], config.clients[1].model_copy(update={"steps": 2})]}
    )
    store = RunStore.create_or_open(config, "budgets")
    state = first_state(store)
    others, own = (run_work(store, "train", 1, client.name, state).metrics for client in config.clients)
    assert (others["steps"], own["steps"]) == (4, 2)
    assert own["lr"] == pytest.approx(others["lr"]) == pytest.approx(5e-4)


@pytest.mark.parametrize(("key", "value"), [("lr", 5e-4), ("grad_clip_norm", 1e-3), ("batch_size", 3)])
def test_training_keys_change_the_result(small_config: MakeConfig, key: str, value: float) -> None:
    first = exchanged_tensors(fit(small_config())[0])
    other = exchanged_tensors(fit(small_config(**{f"training__{key}": value}))[0])
    assert any(not np.array_equal(first[name], other[name]) for name in first)


def test_num_workers_changes_nothing_but_the_process(small_config: MakeConfig) -> None:
    first = exchanged_tensors(fit(small_config())[0])
    other = exchanged_tensors(fit(small_config(training__num_workers=1))[0])
    assert all(np.array_equal(first[name], other[name]) for name in first)


def test_exchanged_tensors_go_in_and_out_by_name(small_config: MakeConfig) -> None:
    trained = exchanged_tensors(fit(small_config())[0])
    fresh = load(small_config())[0]
    load_exchanged_tensors(fresh, dict(reversed(trained.items())))
    again = exchanged_tensors(fresh)
    assert list(again) == sorted(trained)
    assert all(np.array_equal(again[name], trained[name]) for name in trained)


def test_tensors_of_another_shape_are_refused(small_config: MakeConfig) -> None:
    tensors = exchanged_tensors(load(small_config(peft__r=8))[0])
    with pytest.raises(PolicyError, match=r"the global tensor .* has shape"):
        load_exchanged_tensors(load(small_config(peft__r=4))[0], tensors)


def test_target_modules_and_rank_decide_what_travels(small_config: MakeConfig) -> None:
    default = exchanged_tensors(load(small_config())[0])
    other = exchanged_tensors(load(small_config(peft__target_modules=r".*lm_expert.*\.(k|o)_proj"))[0])
    full = exchanged_tensors(load(small_config(peft__enabled=False))[0])
    saved = exchanged_tensors(load(small_config(peft__full_training_modules=["action_out_proj"]))[0])
    assert default.keys() != other.keys()
    assert not any("lora" in name for name in full)
    assert any("action_out_proj" in name and "lora" not in name for name in saved)


def test_a_lora_adapter_scaled_to_nothing_changes_nothing(small_config: MakeConfig) -> None:
    """lora_alpha / r is the adapter's scale: PEFT must have taken both from our config."""
    built = load(small_config(peft__r=4, peft__lora_alpha=12))[0]
    layers = [module for module in built.modules() if isinstance(getattr(module, "scaling", None), dict)]
    scales = {module.scaling["default"] for module in layers}
    assert scales == {3.0}


def test_ffa_trains_and_sends_b_alone(small_config: MakeConfig) -> None:
    """FFA-LoRA: A is the one of the seed in every client and after every fit, and what travels back is half as much."""
    config = small_config(peft__aggregation="ffa", peft__full_training_modules=["action_out_proj"])
    built, *_ = load(config)
    trainable = {name for name, value in built.named_parameters() if value.requires_grad}
    assert not [name for name in trainable if "lora_A" in name]
    assert [name for name in trainable if "lora_B" in name]
    assert [name for name in trainable if "action_out_proj" in name]
    store = RunStore.create_or_open(config, "ffa")
    state = first_state(store)
    start = read_tensors(store.folder, state.arrays)
    sent = [run_work(store, "train", 1, client.name, state).tensors for client in config.clients]
    for ref in sent:
        assert ref is not None
        update = read_tensors(store.folder, ref)
        assert update.keys() == {name for name in start if "lora_A" not in name}
        assert all(not np.array_equal(value, start[name]) for name, value in update.items() if "lora_B" in name)
    trained, _ = fit(config)
    fresh, *_ = load(config)
    whole, begun = exchanged_tensors(trained), exchanged_tensors(fresh)
    assert whole.keys() == start.keys() == begun.keys()
    for name, value in whole.items():
        assert np.array_equal(value, begun[name]) == ("lora_A" in name), name


def test_a_round_of_each_way_to_aggregate_adapters(small_config: MakeConfig) -> None:
    """The aggregate goes back into the policy, and the next fit starts from it."""
    for mode in ("average", "ffa", "exact"):
        store = RunStore.create_or_open(small_config(peft__aggregation=mode), mode)
        state = first_state(store)
        results = [run_work(store, "train", 1, client.name, state) for client in store.config.clients]
        outcome = ServerRound(store.config, 1, store.path(state.arrays)).aggregate(results, store.folder)
        assert outcome.failures == []
        assert set(outcome.lora) == {"average": {"gap"}, "ffa": set(), "exact": {"gap", "truncation"}}[mode]
        after = RoundState(server_round=1, arrays=store.place(1, "global", outcome.tensors))
        assert run_work(store, "train", 2, store.config.clients[0].name, after).tensors is not None


def test_evaluation_is_in_the_robots_units(small_config: MakeConfig, tmp_path: Path) -> None:
    """A joint whose recorded actions are moved by 10 degrees has an error that moves with it; the others do not."""
    config = small_config(evaluation__frame_stride=12)
    built, before, after, frames = load(config)
    first = evaluate(built, before, after, frames, config.evaluation, seed=5)
    again = evaluate(built, before, after, frames, config.evaluation, seed=5)
    other = evaluate(built, before, after, frames, config.evaluation, seed=6)
    assert first == again
    assert first["loss"] != other["loss"]
    arm = [value for name, value in first["joint_error"].items() if name != "gripper"]
    assert first["action_error_deg"] == pytest.approx(sum(arm) / 5)
    assert first["gripper_error"] == first["joint_error"]["gripper"]
    assert first["num_examples"] == math.ceil(len(frames) / 12)


def test_the_error_of_a_perfect_prediction_is_zero(small_config: MakeConfig) -> None:
    """`predict_action_chunk` replaced by the recorded actions, normalised: what is left is the pipeline's own error."""
    config = small_config(evaluation__frame_stride=12)
    built, before, after, frames = load(config)
    inner = built.get_base_model()
    recorded: list[torch.Tensor] = []
    forward = inner.forward

    def remember(batch: dict[str, torch.Tensor], *args: object, **kwargs: object) -> object:
        recorded.append(batch["action"])
        return forward(batch, *args, **kwargs)

    inner.forward = remember
    inner.predict_action_chunk = lambda batch, **kwargs: recorded[-1]
    result = evaluate(built, before, after, frames, config.evaluation, seed=5)
    assert max(result["joint_error"].values()) < 1e-3


def test_act_from_scratch_with_federated_statistics(small_config: MakeConfig) -> None:
    """Any policy that LeRobot's factories make: ACT on joints, cube pose and both cameras, all parameters exchanged."""
    small = {"chunk_size": 8, "n_action_steps": 4, "dim_model": 32, "n_heads": 2, "dim_feedforward": 32}
    small |= {"n_encoder_layers": 1, "n_decoder_layers": 1, "pretrained_backbone_weights": None}
    changes = {"policy": {"type": "act", "device": "cpu", "overrides": small}, "peft__enabled": False}
    found = checks.preflight(small_config(**changes, data__normalization="federated"))
    config = found.config
    store = RunStore.create_or_open(config, "act")
    statistics = [run_work(store, "statistics", 0, client.name, None) for client in config.clients]
    merged = aggregate(
        [unflatten_stats(read_tensors(store.folder, item.tensors)) for item in statistics if item.tensors]
    )
    assert int(merged["action"]["count"][0]) == sum(item.num_examples for item in statistics)
    stats = store.place(0, "stats", flatten_stats(merged))
    state = first_state(store).model_copy(update={"stats": stats})
    assert sum(array.nbytes for array in read_tensors(store.folder, state.arrays).values()) == found.exchanged_bytes
    update = run_work(store, "train", 1, "kitchen", state)
    evaluation = run_work(store, "evaluate", 1, "workshop", state)
    assert update.tensors is not None
    assert "model.action_head.weight" in read_tensors(store.folder, update.tensors)
    assert evaluation.metrics["action_error_deg"] > 0


def test_a_policy_that_cannot_be_made_from_scratch_is_refused_before_a_run(small_config: MakeConfig) -> None:
    policy = {"type": "act", "device": "cpu", "overrides": {"pretrained_backbone_weights": "None.SUCH"}}
    config = small_config(policy=policy, peft__enabled=False, data__normalization="federated")
    with pytest.raises(PolicyError, match=r"policy\.type = 'act': it cannot be built \(KeyError: 'None\.SUCH"):
        checks.preflight(config)


def test_a_feature_without_statistics_is_refused(small_config: MakeConfig) -> None:
    config = small_config()
    base = load_policy_config(config.policy, base_path(config.policy, Path()))
    load(config)
    stats = open_metadata(config.clients[0]).stats
    del stats["observation.state"]
    with pytest.raises(PolicyError, match=r"'observation.state' is to be normalised .* no statistics"):
        build_processors(base, stats, {})


def test_merged_and_adapted_policies_act_alike(small_config: MakeConfig, tmp_path: Path) -> None:
    """`export --merge` gives a plain SmolVLA whose actions equal the adapter's within 1e-5 of its units."""
    from lerobot.configs.policies import PreTrainedConfig
    from lerobot.policies import make_policy, make_pre_post_processors

    config = small_config(training__steps=4)
    store = RunStore.create_or_open(config, "merge")
    update = run_work(store, "train", 1, "kitchen", first_state(store))
    assert update.tensors is not None
    state = RoundState(server_round=1, arrays=update.tensors)
    work = store.task("evaluate", 1, "kitchen", state)
    *_, frames = load(config)
    actions = []
    for merge in (False, True):
        folder = tmp_path / f"merged-{merge}"
        save_policy(work, config, folder, merge=merge)
        written = PreTrainedConfig.from_pretrained(folder)
        written.pretrained_path = folder
        loaded = make_policy(written, ds_meta=frames.meta)
        before, _ = make_pre_post_processors(written, pretrained_path=str(folder))
        batch = training.prepare_batch(next(iter(torch.utils.data.DataLoader(frames, 8))), before, frames)
        torch.manual_seed(0)
        with torch.no_grad():
            actions.append(loaded.predict_action_chunk(batch))
        assert json.loads((folder / "config.json").read_text())["use_peft"] is not merge
        assert (folder / "adapter_config.json").exists() is not merge
    torch.testing.assert_close(actions[0], actions[1], atol=1e-5, rtol=0)


def test_reading_a_policy_leaves_no_temporary_file(
    small_config: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    config = small_config()
    load_policy_config(config.policy, base_path(config.policy, Path()))
    assert list(scratch.iterdir()) == []
    assert tempfile.gettempdir() == str(scratch)
