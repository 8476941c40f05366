"""A strategy that is not of zk0: what is refused before a run, and what is kept between rounds."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from flwr.serverapp.strategy import FedAvg
from numpy.typing import NDArray

from tests import foreign
from tests.unit.aggregation.test_strategies import advance, create, fedavgm, make_config, rounds_of
from zk0.aggregation.foreign import attributes, forgotten
from zk0.aggregation.state import StateError, load_strategy_state, strategy_state
from zk0.aggregation.strategies import check_strategy
from zk0.config import RunConfig
from zk0.errors import ConfigError
from zk0.files import atomic
from zk0.logs.setup import add_sink, remove_sink

PACKAGE = foreign.PACKAGE
EXAMPLE = "zk0_example.strategies:ServerMomentum"
MODULE = """
from flwr.serverapp.strategy import FedAvg, Strategy
import threading

class Fine(FedAvg):
    pass

class Keyed(FedAvg):
    def __init__(self, *, rate, min_train_nodes, tags=(), **rest):
        assert set(rest) == {"fraction_train", "min_available_nodes", "weighted_by_key"}, rest
        super().__init__(min_train_nodes=min_train_nodes, **rest)
        if rate < 0:
            raise ArithmeticError("rate must not be negative")

class Narrow(FedAvg):
    def __init__(self, fraction_train, rate=1.0):
        super().__init__(fraction_train=fraction_train)

class Abstract(Strategy):
    pass

class Forgetful(FedAvg):
    seen = None
    def aggregate_train(self, server_round, replies):
        self.seen = server_round
        return super().aggregate_train(server_round, replies)

class Locked(FedAvg):
    def state_dict(self):
        return {"a": [{"lock": threading.Lock()}]}
    def load_state_dict(self, state):
        pass

class Half(FedAvg):
    def state_dict(self):
        return {}

class Odd(FedAvg):
    def state_dict(self):
        return {}
    def load_state_dict(self, state):
        self.round = state["round"]

class Lossy(FedAvg):
    def aggregate_train(self, server_round, replies):
        arrays, metrics = super().aggregate_train(server_round, replies)
        del arrays["double"]
        return arrays, metrics

class Silent(FedAvg):
    def aggregate_train(self, server_round, replies):
        return None, None

class Nobody(FedAvg):
    def configure_train(self, *arguments):
        return []

def function():
    pass
"""


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MODULE)
    (tmp_path / "broken.py").write_text("import nowhere.at_all")
    for folder in (PACKAGE, tmp_path):
        monkeypatch.syspath_prepend(folder)
    for name in ("mine", "broken"):
        monkeypatch.delitem(__import__("sys").modules, name, raising=False)


def config(strategy: str, outputs: Path = Path("x"), **options: Any) -> RunConfig:
    return make_config(strategy, outputs, **({"strategy_options": options} if options else {}))


@pytest.mark.parametrize(
    ("strategy", "options", "words"),
    [
        ("nowhere.at:All", {}, ["strategy = 'nowhere.at:All'", "nowhere.at cannot be imported", "PYTHONPATH"]),
        ("broken:Any", {}, ["No module named 'nowhere'", "install its package"]),
        ("mine:Missing", {}, ["mine has no 'Missing'", "Fine, Forgetful"]),
        ("mine:function", {}, ["no subclass of flwr.serverapp.strategy.Strategy"]),
        ("threading:Lock", {}, ["no subclass of"]),
        ("mine:Abstract", {}, ["Abstract cannot be made", "abstract"]),
        ("mine:Fine", {"rate": 1}, ["strategy_options.rate = 1: Fine takes no such argument", "fraction_evaluate"]),
        ("mine:Narrow", {"speed": 1}, ["takes no such argument; it takes rate;"]),
        ("mine:Keyed", {}, ["strategy_options = {}", "Keyed cannot be made", "'rate'"]),
        ("mine:Keyed", {"rate": -1}, ["{'rate': -1}", "ArithmeticError: rate must not be negative"]),
        ("mine:Locked", {}, ["cannot be saved", "state_dict()['a'][0]['lock'] is a _thread.lock", "numpy arrays"]),
        ("mine:Half", {}, ["without the other; give both"]),
        ("mine:Odd", {}, ["does not take the state of a new one back (KeyError: 'round')"]),
    ],
)
def test_what_is_refused_before_a_run(strategy: str, options: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"^federation\.strategy") as caught:
        check_strategy(config(strategy, **options))
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("strategy", "options"),
    [
        ("mine:Fine", {"fraction_evaluate": 0.5}),
        ("mine:Keyed", {"rate": 1, "tags": ["a"]}),
        ("mine:Narrow", {}),
        (EXAMPLE, {"momentum": 0.5}),
        ("flwr.serverapp.strategy:Krum", {"num_malicious_nodes": 1}),
    ],
)
def test_what_is_taken(strategy: str, options: dict[str, Any]) -> None:
    check_strategy(config(strategy, **options))


@pytest.mark.parametrize(
    ("strategy", "words"),
    [
        ("mine:Lossy", "'double' is missing; among the global tensors it is of shape (4,)"),
        ("mine:Silent", "'a.bias' is missing"),
        ("mine:Nobody", "configure_train chooses the nodes [] in round 1"),
    ],
)
def test_what_a_round_is_refused_for(tmp_path: Path, strategy: str, words: str) -> None:
    store = create(config(strategy, tmp_path), "refused")
    with pytest.raises(ConfigError, match=r"^federation\.strategy = 'mine:") as caught:
        advance(str(store.folder), 1, 1)
    assert words in str(caught.value)


def test_the_example_is_fedavgm_and_a_fresh_strategy_goes_on_with_its_state(tmp_path: Path) -> None:
    store = create(config(EXAMPLE, tmp_path, momentum=0.8), "example")
    advance(str(store.folder), 1, 4)
    step = fedavgm(1.0, 0.8)
    for number, before, mean, after in rounds_of(store, 4):
        for key in ("z.weight", "a.bias", "scalar", "double"):
            expected = step(number, key, before[key].astype(np.float64), mean[key])
            np.testing.assert_allclose(after[key], expected, rtol=2e-5, atol=2e-6, err_msg=f"{key}, round {number}")
    tensors, scalars = store.load_strategy_state(4)
    assert {name.split("/")[1] for name in tensors} == {"velocity"}
    assert len(dict(scalars["state_dict"][1][1])["lengths"][1]) == 4


def test_what_is_changed_and_not_kept_is_said_once(tmp_path: Path) -> None:
    said: list[str] = []
    handle = add_sink(said.append, "WARNING")
    store = create(config("mine:Forgetful", tmp_path), "forgetful")
    advance(str(store.folder), 1, 2)
    remove_sink(handle)
    assert len([line for line in said if "a round changes its seen, which is not kept" in line]) == 1


def test_changes_in_a_dict_and_a_list_are_seen() -> None:
    strategy = FedAvg()
    vars(strategy).update(a={"x": 1000.5}, b=[1], c=3, m_t={})
    before = attributes(strategy)
    assert forgotten(strategy, before) == []
    vars(strategy)["a"]["x"] = 2000.5
    vars(strategy)["b"].append(2)
    vars(strategy)["m_t"]["x"] = 1
    vars(strategy)["d"] = 1
    assert forgotten(strategy, before) == ["a", "b", "d"]


class Keeper(FedAvg):
    """Keeps what it is told."""

    kept: Any = None

    def state_dict(self) -> Any:
        return self.kept

    def load_state_dict(self, state: Any) -> None:
        self.kept = state


def through_files(folder: Path, kept: Any) -> Any:
    keeper, again = Keeper(), Keeper()
    keeper.kept = kept
    tensors, scalars = strategy_state(keeper)
    atomic.write_tensors(folder / "state.safetensors", tensors)
    atomic.write_json(folder / "state.json", scalars)
    load_strategy_state(
        again, atomic.read_tensors(folder / "state.safetensors"), atomic.read_json(folder / "state.json")
    )
    return again.kept


ARRAY: NDArray[Any] = np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3)


@pytest.mark.parametrize(
    "kept",
    [
        None,
        {},
        {"z": 1, "a": True, "m": None, "text": "\udce9", "large": 2**80, "nested": {"b": {}, "a": [1, (2, "x")]}},
        [0.1, -0.0, float("inf"), 5e-324],
        {"a": {"b": ARRAY}, "a/b": ARRAY + 1, "a~1b": [ARRAY + 2], "": ARRAY + 3},
        {"scalar": np.float64(0.1), "half": np.float16(0.1), "flag": np.bool_(1), "empty": np.zeros((0, 2))},
    ],
)
def test_a_state_comes_back_as_it_was(tmp_path: Path, kept: Any) -> None:
    def plain(value: Any) -> Any:
        """With arrays as their bytes, and floats as hex."""
        if isinstance(value, np.ndarray | np.generic):
            return type(value), value.dtype, value.shape, value.tobytes()
        if isinstance(value, dict):
            return [(key, plain(item)) for key, item in value.items()]
        if isinstance(value, list | tuple):
            return type(value), [plain(item) for item in value]
        return value.hex() if isinstance(value, float) else (type(value), value)

    assert plain(through_files(tmp_path, kept)) == plain(kept)


def test_arrays_that_come_back_may_be_changed_and_records_come_back(tmp_path: Path) -> None:
    found = through_files(tmp_path, {"a": ARRAY, "r": ArrayRecord({"x": Array(ARRAY)})})
    found["a"] *= 2
    assert found["r"]["x"].numpy().tobytes() == ARRAY.tobytes()
    assert np.isnan(through_files(tmp_path, [float("nan")])[0])


@pytest.mark.parametrize(
    ("kept", "words"),
    [
        ({"a": {1: 2}}, "state_dict()['a'] has the key 1"),
        ({"a": b"x"}, "state_dict()['a'] is a builtins.bytes"),
        ([{1, 2}], "state_dict()[0] is a builtins.set"),
        ({"a": np.array(["x"])}, "numpy.ndarray of dtype <U1"),
        ({"a": np.array([None])}, "of dtype object"),
        ({"a": 1j}, "builtins.complex"),
    ],
)
def test_what_cannot_be_kept_is_named(kept: Any, words: str) -> None:
    keeper = Keeper()
    keeper.kept = kept
    with pytest.raises(StateError) as caught:
        strategy_state(keeper)
    assert words in str(caught.value)


def test_known_attributes_may_hold_more_than_flowers_do(tmp_path: Path) -> None:
    """Flower's own have floats, records, and dicts and lists of arrays."""
    first, second = FedAvg(), FedAvg()
    vars(first).update(m_t={"a": [1.5, ARRAY]}, v_t=ARRAY, clipping_norm=0.1, momentum_vector=(ARRAY,))
    tensors, scalars = strategy_state(first)
    load_strategy_state(second, tensors, json.loads(json.dumps(scalars)))
    kept: Callable[[str], Any] = lambda name: vars(second)[name]  # noqa: E731
    assert kept("m_t")["a"][0] == 1.5
    assert kept("v_t").tobytes() == kept("momentum_vector")[0].tobytes() == ARRAY.tobytes()
    assert (kept("clipping_norm"), type(kept("momentum_vector"))) == (0.1, tuple)
