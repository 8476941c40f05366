"""zk0.config: what is refused and how it is said, overrides, paths, the digest, and the shipped configs."""

import copy
import hashlib
import json
import types
import typing
from typing import Any

import pytest
from pydantic import BaseModel

from zk0.config import (
    LATER_KEYS,
    SCHEDULER_KEYS,
    STRATEGY_KEYS,
    RunConfig,
    load_config,
    resolve_path,
    shipped_configs,
    size_in_bytes,
    validate_config,
)
from zk0.config.trust import PRIVACY_KEYS
from zk0.errors import ConfigError
from zk0.sim.settings import CLIENTS, UNSEEN

BASE: dict[str, Any] = {
    "clients": [{"name": "a", "repo_id": "o/a"}, {"name": "b", "repo_id": "o/b"}],
    "policy": {"path": "o/policy"},
    "evaluation": {"datasets": [{"name": "c", "repo_id": "o/c"}]},
}


ENVIRONMENT = {"name": "bench", "type": "zk0_so101"}


def base_for(path):
    """BASE, with an environment where a key is one of its."""
    data = copy.deepcopy(BASE)
    if "environments" in path[:-1]:
        data["evaluation"]["environments"] = [dict(ENVIRONMENT)]
    return data


def with_value(path, value):
    data = base_for(path)
    node = data
    for part in path[:-1]:
        node = node[part] if isinstance(node, list) else node.setdefault(part, {})
    node[path[-1]] = value
    return data


def models(annotation):
    """Every pydantic model in a field's type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in typing.get_args(annotation) for model in models(inner)]


def fields(model=RunConfig, path=()):
    """(path, field) of every key; an item of a list has index 0."""
    for name, field in model.model_fields.items():
        inner = models(field.annotation)
        is_list = typing.get_origin(field.annotation) is list
        yield (*path, name), field, bool(inner)
        for part in inner:
            yield from fields(part, (*path, name, 0) if is_list else (*path, name))


LEAVES = [
    path
    for path, field, is_group in fields()
    if not is_group
    and not (typing.get_origin(field.annotation) is typing.Literal and len(typing.get_args(field.annotation)) == 1)
]
"""Every key that can have another value."""
WITHOUT_EFFECT = {"executor", "checkpoint", "logging", "memory", "report", "outputs_dir", "federation.may_miss"}
WITHOUT_EFFECT |= {"data.cache", "data.cache_limit", "tracking"}
STRATEGY_OF = {key: name for name, keys in reversed(STRATEGY_KEYS.items()) for key in keys}
"""A key of one strategy -> a strategy that reads it."""
SCHEDULER_OF = {key: name for name, keys in reversed(SCHEDULER_KEYS.items()) for key in keys}
"""The same of schedules."""
OTHER_VALUES = {
    ("tracking", "kinds"): ["wandb"],
    ("federation", "proximal_mu"): 0.5,
    ("federation", "strategy"): "fedprox",
    ("federation", "strategy_options"): {"rate": 0.5},
    ("policy", "type"): "act",
    ("policy", "overrides"): {"num_steps": 5},
    ("clients", 0, "rename_map"): {"x": "y"},
    ("evaluation", "datasets", 0, "rename_map"): {"x": "y"},
    ("evaluation", "environments", 0, "rename_map"): {"x": "y"},
    ("evaluation", "environments", 0, "options"): {"setting": "kitchen"},
    ("peft", "full_training_modules"): ["x"],
    ("data", "unit"): "rad",
    ("data", "grippers"): ["*hand*"],
    ("federation", "fraction_train"): 0.5,
    ("training", "micro_batch_size"): 2,
    ("training", "restart_steps"): 5,
    ("training", "scheduler"): "constant",
    ("clients", 0, "steps"): 7,
    ("adaptive", "plateau_patience"): 2,
    ("federation", "beta"): 0.3,
    ("federation", "num_malicious_nodes"): 0,
    ("federation", "num_nodes_to_select"): 3,
    ("federation", "privacy", "kind"): "fixed",
    ("federation", "privacy", "target_clipped_quantile"): 0.25,
    ("federation", "privacy", "delta"): 1e-6,
    ("adaptive", "plateau_factor"): 0.25,
    ("memory", "soft_limit"): "6g",
    ("logging", "rotation"): "00:00",
    ("logging", "retention"): "2 weeks",
    ("executor", "max_parallel"): 3,
    ("executor", "options"): {"queue": "short"},
    ("executor", "docker", "gpus"): ["0"],
    ("executor", "docker", "shm_size"): "1g",
    ("executor", "docker", "mem_limit"): "6.5g",
    ("data", "cache_limit"): "6.5g",
    ("executor", "docker", "mounts"): ["/data"],
}


SEVEN = [{"name": name, "repo_id": f"o/{name}"} for name in "abdefgh"]
ROBUST = {"clients": SEVEN}
PRIVATE = {"federation": {"weighting": "uniform", "privacy": {"kind": "adaptive"}}}
NEEDS: dict[tuple[str, ...], dict[str, Any]] = {
    ("federation", "strategy_options"): {"federation": {"strategy": "my.module:Mine"}},
    ("adaptive", "plateau_factor"): {"adaptive": {"plateau_patience": 2}},
    ("adaptive", "mu_patience"): {"adaptive": {"mu_step": 0.1}, "federation": {"strategy": "fedprox"}},
    ("adaptive", "mu_step"): {"federation": {"strategy": "fedprox"}},
    **{("federation", key): ROBUST for key in ("beta", "num_malicious_nodes", "num_nodes_to_select")},
    **{("federation", "privacy", key): PRIVATE for key in PRIVACY_KEYS["adaptive"]},
    ("federation", "privacy", "kind"): {"federation": {"weighting": "uniform"}},
}
"""Keys that are refused without others -> those."""


def merged(below, above):
    """`above` over `below`, level by level; a list replaces what is there."""
    if not isinstance(below, dict):
        return below
    both = {key: merged(below[key], above[key]) for key in below.keys() & above.keys() if isinstance(below[key], dict)}
    return {**below, **above, **both}


def dotted(path):
    return ".".join(map(str, path))


def value_at(config, path):
    node = config.model_dump()
    for part in path:
        node = node[part]
    return node


def other_value(path):
    """A valid value that is not the one in BASE."""
    if path in OTHER_VALUES:
        return OTHER_VALUES[path]
    field = next(field for known, field, _ in fields() if known == path)
    current = value_at(validate_config(base_for(path)), path)
    options = [field.annotation, *typing.get_args(field.annotation)]
    choices = [c for option in options if typing.get_origin(option) is typing.Literal for c in typing.get_args(option)]
    if choices:
        return next(choice for choice in choices if choice != current)
    if isinstance(current, bool):
        return not current
    if isinstance(current, int | float):
        return current + 1
    return 0.5 if float in options else "other"


@pytest.mark.parametrize("name", ["sim", "so100"])
def test_the_shipped_configs_load(name):
    assert name in shipped_configs()
    assert load_config(name) == load_config(shipped_configs()[name])


def test_the_default_is_the_simulated_rooms():
    config = load_config()
    assert [client.name for client in config.clients] == list(CLIENTS)
    assert [dataset.name for dataset in config.evaluation.datasets] == [UNSEEN]
    assert all(client.root == f"asset:datasets/{client.name}" for client in config.clients)


def test_so100_is_what_it_says():
    config = load_config("so100")
    assert 4 <= len(config.clients) <= 12
    assert config.federation.num_rounds * config.training.steps == 20_000
    assert config.policy.path == "lerobot/smolvla_base"


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("federation", "num_round"), 3, ["federation.num_round = 3", "did you mean 'num_rounds'"]),
        (("bogus",), 1, ["bogus = 1", "known here: seed", "remove it"]),
        (("clients", 0, "repo"), "x", ["clients.0.repo = 'x'", "did you mean 'repo_id'"]),
        (("training", "steps"), "many", ["training.steps = 'many'", "integer", "Optimizer steps"]),
        (("training", "lr"), "fast", ["training.lr = 'fast'", "number"]),
        (("data",), 3, ["data = 3", "a table of keys, as [data] begins one"]),
        (("data", "unit"), "degrees", ["data.unit: 'degrees' is no unit", "'rad'"]),
        (("data", "unit"), {"elbow": 3}, ["data.unit: 3 is no unit", "'rad'"]),
        (("clients",), [], ["clients = []", "at least 1 item"]),
        (("clients", 0), {"name": "a"}, ["clients.0.repo_id: missing", "hub id"]),
        (("clients", 0, "name"), "A b", ["clients.0.name = 'A b'", "begin with a letter or digit"]),
        (("clients", 1, "name"), "a", ["clients: client names must differ", "a"]),
        (("clients", 0, "rename_map"), {"x": 1}, ["clients.0.rename_map.x = 1", "a text in quotes"]),
        (("training", "steps"), 0, ["training.steps = 0", "greater than or equal to 1"]),
        (("training", "lr"), float("nan"), ["training.lr = nan", "finite"]),
        (("training", "micro_batch_size"), 64, ["micro_batch_size = 64 is more than batch_size = 16", "lower it"]),
        (("training", "warmup_steps"), 5, ["warmup_steps = 5 needs scheduler = 'constant' or 'cosine'", "= 0"]),
        (("training", "decay_lr"), 1e-5, ["decay_lr = 1e-05 needs scheduler = 'cosine'", "or decay_lr = 0"]),
        (("training", "restart_steps"), 5, ["needs scheduler = 'cosine_warm_restarts'", "leave it out"]),
        (("training",), {"scheduler": "cosine_warm_restarts"}, ["needs restart_steps", "give it"]),
        (("training",), {"scheduler": "cosine", "lr": 1e-3, "decay_lr": 2e-3}, ["decay_lr = 0.002", "lr = 0.001"]),
        (
            ("training",),
            {"scheduler": "cosine", "warmup_steps": 600},
            ["training.warmup_steps = 600 is not less than the 600 steps", "client 'a'", "lower it"],
        ),
        (
            ("training",),
            {"optimizer_state": "kept"},
            ["training.optimizer_state = 'kept'", "'fresh' or 'keep'"],
        ),
        (("training", "amp"), "fp8", ["training.amp = 'fp8'", "'no', 'bf16' or 'fp16'"]),
        (("clients", 0, "steps"), 0, ["clients.0.steps = 0", "greater than or equal to 1"]),
        (("evaluation", "datasets", 0, "steps"), 5, ["evaluation.datasets.0.steps = 5: unknown key"]),
        (("federation", "weighting"), "frames", ["federation.weighting = 'frames'", "'examples' or 'uniform'"]),
        (("memory", "soft_limit"), 6, ["memory.soft_limit", "no share from 0 to 1", "6g"]),
        (("memory", "soft_limit"), "lots", ["memory.soft_limit", "'lots' is no size", "6g"]),
        (("federation", "fraction_train"), 1.5, ["federation.fraction_train = 1.5", "less than or equal to 1"]),
        (("federation", "strategy"), "fedmagic", ["federation.strategy = 'fedmagic'", "'fedavg', 'fedprox'"]),
        (("federation", "strategy"), "my.module", ["federation.strategy = 'my.module'", "'package.module:Class'"]),
        (
            ("federation", "strategy"),
            "fedtrimmedavg",
            ["strategy = 'fedtrimmedavg' needs 3 clients", "2 are sampled"],
        ),
        (("federation", "strategy"), "krum", ["num_malicious_nodes = 1 needs 5 clients", "2 are sampled"]),
        (("federation", "strategy"), "bulyan", ["needs 7 clients", "lower num_malicious_nodes"]),
        (("federation", "admission", "max_norm_ratio"), 0.5, ["max_norm_ratio = 0.5 would refuse", "or 0 for any"]),
        (("federation", "privacy", "kind"), "fixed", ["needs weighting = 'uniform'"]),
        (("federation", "privacy", "max_epsilon"), 3, ["max_epsilon = 3.0 needs kind = 'fixed' or 'adaptive'"]),
        (("federation", "strategy"), "os:a;b", ["federation.strategy = 'os:a;b'", "'package.module:Class'"]),
        (("federation",), {"strategy": "a.b:C", "proximal_mu": 0.1}, ["proximal_mu = 0.1 needs strategy = 'fedprox'"]),
        (("federation", "strategy_options"), {"x": 1}, ["{'x': 1} needs strategy", "it is 'fedavg'", "leave"]),
        (
            ("federation",),
            {"strategy": "a.b:C", "strategy_options": {"min_train_nodes": 1}},
            ["strategy_options.min_train_nodes = 1 is given by zk0", "federation.min_train_clients; leave it out"],
        ),
        (("federation", "proximal_mu"), 0.1, ["proximal_mu = 0.1", "strategy = 'fedprox'"]),
        (("federation", "eta"), 0.1, ["eta = 0.1 needs strategy = 'fedadam' or 'fedyogi'", "leave it out"]),
        (("federation", "tau"), 0.1, ["tau = 0.1 needs strategy", "leave it out"]),
        (("federation", "beta_1"), 1.0, ["federation.beta_1 = 1.0", "less than 1"]),
        (("federation", "beta_2"), -0.1, ["federation.beta_2 = -0.1", "greater than or equal to 0"]),
        (("federation", "server_learning_rate"), 0, ["federation.server_learning_rate = 0", "greater than 0"]),
        (("federation", "server_momentum"), 0.9, ["server_momentum = 0.9 needs strategy = 'fedavgm'", "leave it out"]),
        (("federation",), {"strategy": "fedavgm", "server_momentum": 0}, ["plain FedAvg", "strategy = 'fedavg'"]),
        (("federation",), {"strategy": "fedadam", "server_momentum": 0.5}, ["needs strategy = 'fedavgm'"]),
        (("federation",), {"strategy": "fedyogi", "proximal_mu": 0.5}, ["strategy = 'fedprox'", "or proximal_mu = 0"]),
        (
            ("peft",),
            {"enabled": False, "aggregation": "ffa"},
            ["aggregation = 'ffa' is about adapters", "leave it out"],
        ),
        (("federation", "may_miss"), 3, ["federation.may_miss = 3 is more than the 2 clients", "lower it"]),
        (("federation", "may_miss"), ["z"], ["federation.may_miss names 'z'", "clients are a, b", "correct it"]),
        (("federation", "may_miss"), True, ["federation.may_miss = True", "Clients that the whole run may be"]),
        (("federation", "min_train_clients"), 3, ["federation.min_train_clients = 3", "2 clients", "lower it"]),
        (("policy",), {}, ["policy: give either policy.path"]),
        (("policy",), {"type": "act"}, ["peft.enabled needs policy.path", "peft.enabled = false"]),
        (("evaluation", "datasets", 0, "name"), "a", ["evaluation.datasets: 'a'", "another name"]),
        (("evaluation", "quick_stride"), 1, ["evaluation.quick_stride = 1", "greater than or equal to 2"]),
        (("evaluation",), {"best_metric": "unseen_loss"}, ["best_metric = 'unseen_loss' needs", "'action_error'"]),
        (("evaluation", "best_metric"), "luck", ["evaluation.best_metric = 'luck'", "'action_error'"]),
        (("adaptive", "mu_step"), 0.1, ["mu_step = 0.1 needs federation.strategy = 'fedprox'", "leave mu_step out"]),
        (("adaptive", "mu_patience"), 2, ["adaptive: mu_patience = 2 needs mu_step", "leave mu_patience out"]),
        (("adaptive", "plateau_factor"), 0.1, ["plateau_factor = 0.1 needs plateau_patience", "give that too"]),
        (("adaptive", "plateau_factor"), 1.0, ["adaptive.plateau_factor = 1.0", "less than 1"]),
        (("adaptive", "boost_max"), 0.5, ["adaptive.boost_max = 0.5", "greater than or equal to 1"]),
        (("checkpoint", "keep"), 1, ["checkpoint.keep = 1", "greater than or equal to 2"]),
    ],
)
def test_a_fault_is_named_with_key_value_and_remedy(path, value, words):
    with pytest.raises(ConfigError) as caught:
        validate_config(with_value(path, value))
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_fault_is_named_at_once():
    with pytest.raises(ConfigError) as caught:
        validate_config({"clients": [], "training": {"steps": 0}})
    assert [line.split(" ")[0] for line in str(caught.value).splitlines()] == ["clients", "policy:", "training.steps"]


@pytest.mark.parametrize("content", ["a = ", "\xff"])
def test_a_broken_file_is_named(tmp_path, content):
    file = tmp_path / "bad.toml"
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"bad\.toml"):
        load_config(file)


def test_an_unknown_config_lists_the_shipped_ones():
    with pytest.raises(ConfigError, match=r"'nope'.*sim, so100"):
        load_config("nope")


@pytest.mark.parametrize(
    ("item", "path", "value"),
    [
        ("training.steps=20", ("training", "steps"), 20),
        ("training.lr=1e-3", ("training", "lr"), 1e-3),
        ("peft.enabled=false", ("peft", "enabled"), False),
        ("clients.1.repo_id=o/x", ("clients", 1, "repo_id"), "o/x"),
        ('clients.0.rename_map={"a.b"="c"}', ("clients", 0, "rename_map"), {"a.b": "c"}),
        ("logging.rotation=10 MB", ("logging", "rotation"), "10 MB"),
        ("peft.target_modules=a=b", ("peft", "target_modules"), "a=b"),
        ("policy.overrides.num_steps=5", ("policy", "overrides", "num_steps"), 5),
    ],
)
def test_overrides(item, path, value):
    assert value_at(load_config("sim", [item]), path) == value


@pytest.mark.parametrize(
    "item",
    [
        "training.steps",
        "=3",
        "clients.9.name=x",
        "clients.9=x",
        "clients.x.name=y",
        "seed.x=1",
        "training.step=3",
        ".=3",
    ],
)
def test_bad_overrides_are_refused_by_name(item):
    with pytest.raises(ConfigError) as caught:
        load_config("sim", [item])
    assert item.split("=")[0].split(".")[-1] in str(caught.value)


def write(tmp_path, **more):
    file = tmp_path / "my.toml"
    lines = ['[[clients]]\nname = "a"\nrepo_id = "o/a"', *(f"{key} = {value!r}" for key, value in more.items())]
    file.write_text("\n".join([*lines, "[policy]\npath = 'model'"]))
    return file


def test_relative_paths_are_relative_to_the_config_file(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    config = load_config(write(tmp_path, root="data/a"))
    assert config.clients[0].root == str(tmp_path / "data/a")
    assert config.policy.path == str(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    assert load_config("my.toml", []) == config


def test_a_policy_path_that_is_no_folder_is_a_hub_id(tmp_path):
    assert load_config(write(tmp_path)).policy.path == "model"


@pytest.mark.parametrize("root", ["/data/a", "~/data", "asset:datasets/a"])
def test_other_paths_stay(tmp_path, root):
    assert load_config(write(tmp_path, root=root)).clients[0].root == root


def test_paths_in_overrides_are_relative_to_where_they_are_typed(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    config = load_config(write(tmp_path), ["clients.0.root=data"])
    assert config.clients[0].root == str(tmp_path / "here" / "data")


def test_asset_paths_lie_in_the_package():
    assert resolve_path("asset:configs/sim.toml").is_file()


@pytest.mark.parametrize("path", LEAVES, ids=dotted)
def test_the_digest_covers_what_the_result_depends_on(path):
    data = with_value(path, other_value(path))
    if path[-1] in STRATEGY_OF:
        data["federation"]["strategy"] = STRATEGY_OF[path[-1]]
    if path[-1] in SCHEDULER_OF:
        data["training"]["scheduler"] = SCHEDULER_OF[path[-1]]
    if path == ("policy", "type"):
        data["policy"].pop("path")
        data["peft"] = {"enabled": False}
    for part, keys in NEEDS.get(path, {}).items():
        data[part] = merged(keys, data.get(part, {}))
    changed, before = validate_config(data), validate_config(base_for(path))
    assert value_at(changed, path) != value_at(before, path)
    assert (changed.digest == before.digest) == bool(WITHOUT_EFFECT & {path[0], dotted(path)})


OF_A_NODE = {
    *("clients.0.root", "clients.0.revision", "policy.device", "training.num_threads", "training.num_workers"),
    "data.video_backend",
}


OF_THE_RUN = {"clients.0.repo_id", "policy.path", "training.steps", "data.tolerance_s"}


@pytest.mark.parametrize("path", [path for path in LEAVES if dotted(path) in OF_A_NODE | OF_THE_RUN], ids=dotted)
def test_over_a_link_the_digest_leaves_out_what_is_a_nodes_own(path):
    linked = {"kind": "superlink", "link": "/link"}
    changed, before = (
        validate_config({**data, "executor": linked}) for data in (with_value(path, other_value(path)), base_for(path))
    )
    assert value_at(changed, path) != value_at(before, path)
    assert (changed.digest == before.digest) == (dotted(path) in OF_A_NODE)


def test_a_run_over_a_link_has_another_digest_than_one_at_home():
    linked = {**BASE, "executor": {"kind": "superlink", "link": "/link"}}
    assert validate_config(linked).digest != validate_config(BASE).digest
    assert (
        validate_config({**linked, "executor": {"kind": "superlink", "link": "/other"}}).digest
        == validate_config(linked).digest
    )


def test_a_config_survives_json():
    config = load_config("so100")
    again = validate_config(config.model_dump(mode="json"))
    assert again == config
    assert again.digest == config.digest


@pytest.mark.parametrize(("path", "field"), [(path, field) for path, field, _ in fields()], ids=lambda x: "")
def test_every_key_is_described(path, field):
    assert field.description, dotted(path)


def test_optional_types_are_the_only_unions():
    """The reference and `_explain` read unions of these; another union needs a look at both."""
    for path, field, _ in fields():
        if isinstance(field.annotation, types.UnionType):
            assert set(typing.get_args(field.annotation)) <= {str, int, float, list[str], dict[str, str], type(None)}, (
                dotted(path)
            )


@pytest.mark.parametrize(
    ("text", "size"), [("1024", 1024), ("512m", 512 << 20), ("1.5G", 3 << 29), ("2 kb", 2048), ("1t", 1 << 40)]
)
def test_sizes_are_spelled_as_docker_does(text, size):
    assert size_in_bytes(text) == size


LATER = [
    ({"training": {"micro_batch_size": 16}}, ("training", "micro_batch_size")),
    ({"federation": {"strategy": "fedadam", "eta": 0.5}}, ("federation", "eta")),
    ({"federation": {"strategy": "fedavgm", "server_momentum": 0.5}}, ("federation", "server_momentum")),
    ({"federation": {"strategy": "a.b:C", "strategy_options": {"x": 1}}}, ("federation", "strategy_options")),
    ({"policy": {"path": "o/policy", "plugin": "my.policies"}}, ("policy", "plugin")),
    ({"peft": {"aggregation": "exact"}}, ("peft", "aggregation")),
    ({"federation": {"weighting": "uniform"}}, ("federation", "weighting")),
    ({"training": {"amp": "bf16"}}, ("training", "amp")),
    ({"training": {"optimizer_state": "keep"}}, ("training", "optimizer_state")),
    ({"training": {"scheduler": "cosine", "warmup_steps": 5}}, ("training", "warmup_steps")),
    ({"training": {"scheduler": "cosine", "decay_lr": 1e-6}}, ("training", "decay_lr")),
    ({"evaluation": {"full_every": 0}}, ("evaluation", "full_every")),
    ({"evaluation": {"best_metric": "loss"}}, ("evaluation", "best_metric")),
    ({"evaluation": {"environments": [ENVIRONMENT]}}, ("evaluation", "environments")),
    ({"adaptive": {"plateau_patience": 0}}, ("adaptive", "plateau_patience")),
    ({"adaptive": {"plateau_patience": 0, "plateau_factor": 0.1}}, ("adaptive", "plateau_factor")),
    ({"adaptive": {"boost_max": 2.0}}, ("adaptive", "boost_max")),
    ({"federation": {"admission": {"action": "clip"}}}, ("federation", "admission")),
    ({"federation": {"weighting": "uniform", "privacy": {"kind": "fixed"}}}, ("federation", "privacy")),
    ({"federation": {"strategy": "fedprox"}, "adaptive": {"mu_step": 0.1}}, ("adaptive", "mu_step")),
]


def test_a_run_from_before_a_key_keeps_its_identity():
    """Their digest is part of every key of finished work."""
    dumped = validate_config(BASE).model_dump(mode="json", exclude={key for key in WITHOUT_EFFECT if "." not in key})
    for part, _, key in (name.partition(".") for name in WITHOUT_EFFECT if "." in name):
        del dumped[part][key]
    for part, keys in LATER_KEYS.items():
        for node in dumped[part] if isinstance(dumped[part], list) else [dumped[part]]:
            for key in keys:
                del node[key]
        if not dumped[part]:
            del dumped[part]
    assert validate_config(BASE).digest == hashlib.sha256(json.dumps(dumped, sort_keys=True).encode()).hexdigest()


@pytest.mark.parametrize(("change", "path"), LATER, ids=[dotted(path) for _, path in LATER])
def test_a_later_key_that_is_given_is_part_of_it(change, path):
    given = validate_config({**BASE, **change})
    without = {**BASE, **change, path[0]: {key: value for key, value in change[path[0]].items() if key != path[1]}}
    assert given.digest != validate_config(without).digest


def test_a_config_of_version_0_1_0_has_the_digest_that_it_had_there():
    """A key that is added needs a place in LATER_KEYS, or all finished work of runs under way is lost."""
    assert validate_config(BASE).digest == "bae5560d5480b8b84db2460b96e88d7a0a1f7e1af141e73a48f13a8b63185aa5"


@pytest.mark.parametrize("strategy", ["fedavgm", "fedadam", "fedyogi"])
def test_exact_lora_wants_a_strategy_without_state(strategy):
    data = {**BASE, "peft": {"aggregation": "exact"}}
    for fine in ("fedavg", "fedprox"):
        validate_config({**data, "federation": {"strategy": fine}})
    with pytest.raises(ConfigError, match=rf"peft.aggregation = 'exact'.*'{strategy}'.*use 'fedavg' or 'fedprox'"):
        validate_config({**data, "federation": {"strategy": strategy}})


@pytest.mark.parametrize(
    ("evaluation", "words"),
    [
        (
            {"environments": [{**ENVIRONMENT, "name": "a"}]},
            r"environments: 'a' is a dataset's name too; give it another",
        ),
        (
            {"environments": [{**ENVIRONMENT, "name": "c"}], **BASE["evaluation"]},
            r"environments: 'c' is a dataset's name",
        ),
        ({"environments": [ENVIRONMENT, ENVIRONMENT]}, r"environments: 'bench' is another environment's name too"),
        (
            {"environments": [{**ENVIRONMENT, "episodes": 2, "videos": 3}]},
            r"videos = 3 is more than episodes = 2; lower",
        ),
        ({"environments": [{**ENVIRONMENT, "episodes": 0}]}, r"environments.0.episodes = 0"),
        ({"environments": [{"name": "bench"}]}, r"environments.0.type: missing; LeRobot's environment type"),
        ({"best_metric": "success_rate"}, r"'success_rate' needs evaluation.environments, and there are none; add one"),
    ],
)
def test_environments_that_cannot_be(evaluation, words):
    with pytest.raises(ConfigError, match=words):
        validate_config({**BASE, "evaluation": evaluation})


@pytest.mark.parametrize(("every", "full"), [(1, {0, 1, 2, 3, 4, 5}), (0, {0, 5}), (2, {0, 2, 4, 5})])
def test_the_rounds_that_are_evaluated_in_full(every, full):
    config = validate_config({**BASE, "federation": {"num_rounds": 5}, "evaluation": {"full_every": every}})
    assert {number for number in range(6) if config.is_full(number)} == full


def test_a_client_with_steps_of_its_own_has_all_else_as_the_others():
    config = validate_config(with_value(("clients", 1, "steps"), 7))
    assert config.training_of("a") == config.training
    assert config.training_of("b") == config.training.model_copy(update={"steps": 7})
    assert config.digest != validate_config(BASE).digest
    assert config.digest != validate_config(with_value(("clients", 0, "steps"), 7)).digest


def test_exact_lora_has_no_use_for_kept_moments():
    data = {**BASE, "training": {"optimizer_state": "keep"}}
    validate_config({**data, "peft": {"aggregation": "ffa"}})
    with pytest.raises(ConfigError, match=r"new axes in every round.*set training.optimizer_state = 'fresh'"):
        validate_config({**data, "peft": {"aggregation": "exact"}})
