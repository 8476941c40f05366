"""Whose normalisation statistics are aggregated: what is impossible or out of all proportion costs its sender alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from zk0.aggregation.statistics import refused
from zk0.files import atomic

Flat = dict[str, NDArray[Any]]
CLIENTS = ("kitchen", "workshop", "greenhouse", "study")
FRAMES = dict.fromkeys(CLIENTS, 500)


def of_client(index: int) -> Flat:
    """Statistics as LeRobot makes them: of joints, of a picture, of a joint that stands still."""
    rng = np.random.default_rng(index)
    joints = 50 * rng.standard_normal((500, 6))
    stats: Flat = {}
    for feature, values in (("action", joints), ("observation.state", joints + 1), ("still", np.full((500, 1), 0.1))):
        own = {"mean": values.mean(0), "std": values.std(0), "min": values.min(0), "max": values.max(0)}
        own["q01"] = np.quantile(values, 0.01, axis=0)
        stats |= {f"{feature}/{name}": value for name, value in own.items()}
        stats[f"{feature}/count"] = np.array([500])
    shape = (3, 1, 1)
    picture = {
        "mean": np.full(shape, 0.485),
        "std": np.full(shape, 0.229),
        "min": np.zeros(shape),
        "max": np.full(shape, 0.3),
    }
    stats |= {f"observation.images.front/{name}": value for name, value in picture.items()}
    return stats | {"observation.images.front/count": np.array([500 * 64 * 64])}


def written(folder: Path, spoil: Callable[[Flat], object] = lambda _: None) -> dict[str, Path]:
    files = {}
    for index, client in enumerate(CLIENTS):
        stats = of_client(index)
        if client == "study":
            spoil(stats)
        files[client] = folder / f"{client}.safetensors"
        atomic.write_tensors(files[client], stats)
    return files


def test_honest_ones_pass(tmp_path: Path) -> None:
    assert refused(written(tmp_path), FRAMES) == {}
    assert refused(written(tmp_path), {}) == {}
    much_more = all_moments("still", lambda value: 1e6 * value)  # no feature that is normalised, as an index is none
    assert refused(written(tmp_path, much_more), FRAMES) == {}
    alone = {"study": written(tmp_path)["study"]}
    assert refused(alone, FRAMES) == {}


def times(name: str, factor: float) -> Callable[[Flat], object]:
    return lambda stats: stats.update({name: stats[name] * factor})


def put(name: str, value: Any) -> Callable[[Flat], object]:
    return lambda stats: stats.update({name: np.asarray(value)})


def thousandfold(stats: Flat) -> None:
    stats.update(
        {name: 1000.0 * value for name, value in stats.items() if name.startswith("action") and "count" not in name}
    )


def all_moments(feature: str, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Callable[[Flat], object]:
    """All statistics of a feature but its count, changed in one way."""
    return lambda stats: stats.update(
        {name: change(stats[name]) for name in stats if name.startswith(f"{feature}/") and not name.endswith("count")}
    )


def another(feature: str, like: str) -> Callable[[Flat], object]:
    """A further feature, as there is one."""
    return lambda stats: stats.update(
        {name.replace(like, feature, 1): stats[name] for name in [*stats] if like in name}
    )


SPOILT: dict[str, tuple[Callable[[Flat], object], str]] = {
    "nan": (put("action/mean", np.full(6, np.nan)), "'action/mean' has values that are not finite"),
    "infinite": (put("action/q01", np.full(6, np.inf)), "'action/q01' has values that are not finite"),
    "absurd count": (put("action/count", [10**15]), "'action/count' is 1e+15, and must be from 1 to 500"),
    "no count": (put("action/count", [0]), "'action/count' is 0"),
    "negative count": (put("observation.images.front/count", [-5]), "'observation.images.front/count' is -5"),
    "two counts": (put("action/count", [500, 500]), "'action/count' has the shape [2], not [1]"),
    "negative std": (times("action/std", -1.0), "'action/std' is below 0"),
    "great std": (times("action/std", 1e6), "'action/std' is more than the values are apart"),
    "mean": (put("action/mean", np.full(6, 1e6)), "'action/mean' is not between the minimum and the maximum"),
    "turned": (
        lambda stats: stats.update({"action/min": stats["action/max"], "action/max": stats["action/min"]}),
        "above",
    ),
    "missing": (lambda stats: stats.pop("action/std"), "'action/std' is missing"),
    "shape": (put("action/min", np.zeros(5)), "'action/min' has the shape [5], not [6]"),
    "no feature": (put("mean", np.zeros(5)), "'mean' is no feature/statistic"),
    "picture": (put("observation.images.front/max", np.full((3, 1, 1), 1e9)), "is not that of a picture"),
    "words": (put("action/mean", np.zeros(6, np.bool_)), "'action/mean'"),
    "other unit": (thousandfold, "action goes to"),
    "fewer joints": (
        all_moments("action", lambda value: value[:5]),
        "action has the shape [5], and with 3 of 3 others [6]",
    ),
    "more dimensions": (all_moments("action", lambda value: value[None]), "action has the shape [1, 6]"),
    "grey": (all_moments("observation.images.front", lambda value: value[:1]), "has the shape [1, 1, 1]"),
    "empty": (all_moments("action", lambda value: value[:0]), "is empty, or has values above"),
    "a number": (all_moments("still", lambda _: np.asarray(0.0)), "'still/mean' has the shape []"),
    "overflows": (put("still/max", [1e300]), "'still/max' is empty, or has values above 1e+19"),
    "narrow": (all_moments("action", lambda value: value.astype(np.float16)), "is float16, not float32 or float64"),
    "whole": (all_moments("action", lambda value: value.astype(np.int64)), "is int64, not float32 or float64"),
    "quantile": (put("action/q01", np.full(6, 1e6)), "'action/q01' is not between the minimum and the maximum"),
    "picture's quantile": (put("observation.images.front/q01", np.full((3, 1, 1), 1e9)), "is not that of a picture"),
    "no picture": (another("observation.image", "still"), "'observation.image/mean' has the shape [1]"),
    "picture's points": (put("observation.images.front/count", [2**62]), "and must be from 1 to 33554432000"),
    "more points": (put("observation.images.front/count", [500 * 2**20 * 64]), "front counts 6.711e+07 points a frame"),
    "a steered terminal": (another("\x1b[31m", "still"), "is of no plain name"),
    "many": (
        lambda stats: [another(f"still{number}/", "still/")(stats) for number in range(300)],
        "those of 1 to 256 features",
    ),
}


@pytest.mark.parametrize("case", SPOILT)
def test_what_cannot_be_is_refused_by_name(tmp_path: Path, case: str) -> None:
    spoil, words = SPOILT[case]
    found = refused(written(tmp_path, spoil), FRAMES)
    assert list(found) == ["study"]
    assert words in found["study"]


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    files = written(tmp_path)
    files["study"].write_bytes(b"\xff" * 100)
    assert list(refused(files, FRAMES)) == ["study"]
    atomic.write_tensors(files["study"], {})
    assert "no statistics" in refused(files, FRAMES)["study"]


def test_of_two_whose_shapes_differ_nobody_s_are_taken(tmp_path: Path) -> None:
    files = written(tmp_path, all_moments("action", lambda value: value[:5]))
    found = refused({client: files[client] for client in ("greenhouse", "study")}, FRAMES)
    assert list(found) == ["greenhouse", "study"]
