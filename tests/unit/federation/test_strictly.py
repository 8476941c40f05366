"""`--strict`: warnings are errors, but not that recordings are still on the hub: they are fetched before."""

from collections.abc import Callable
from typing import Any

import pytest

from zk0.config import RunConfig, validate_config
from zk0.errors import DatasetError
from zk0.executors.process import ProcessExecutor
from zk0.federation.before_run import strictly
from zk0.preflight.records import Preflight


def config(**client: str) -> RunConfig:
    one = {"name": "mine", "repo_id": "me/mine", **client}
    return validate_config({"clients": [one], "policy": {"path": "asset:base", "device": "cpu"}})


@pytest.mark.parametrize(("client", "first"), [({}, ["ready"]), ({"root": "/here"}, [])])
def test_what_lies_on_the_hub_is_fetched_first(
    monkeypatch: pytest.MonkeyPatch, client: dict[str, str], first: list[str]
) -> None:
    done: list[str] = []

    def call(_: ProcessExecutor, function: Callable[..., Any], *__: object) -> None:
        done.append(function.__name__)

    def check(wanted: RunConfig) -> Preflight:
        done.append("check")
        return Preflight(config=wanted, frames={}, training_frames={}, exchanged_bytes=1, base_bytes=0, warnings=[])

    monkeypatch.setattr(ProcessExecutor, "call", call)
    strictly(check)(config(**client))
    assert done == [*first, "check"]


def test_a_warning_is_an_error() -> None:
    def check(wanted: RunConfig) -> Preflight:
        found = {"frames": {}, "training_frames": {}, "exchanged_bytes": 1, "base_bytes": 0}
        return Preflight(config=wanted, warnings=["the wrist camera is grey"], **found)  # type: ignore[arg-type]

    with pytest.raises(DatasetError, match="the wrist camera is grey\n--strict: 1 warnings are errors"):
        strictly(check)(config(root="/here"))
