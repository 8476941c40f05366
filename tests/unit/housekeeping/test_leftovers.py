"""What `zk0 clean` finds and removes, and what it leaves alone."""

import fcntl
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.unit.runs.made import commit
from zk0.cli import app
from zk0.config import RunConfig
from zk0.errors import RunNameError
from zk0.files import cache
from zk0.layout import FINAL, LOCK_FILE
from zk0.runs.store import RunStore


@pytest.fixture
def made(
    small_config: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., RunStore]:
    monkeypatch.setenv(cache.FOLDER_VARIABLE, str(tmp_path / "cache"))

    def make(name: str, *, finished: bool = True) -> RunStore:
        store = RunStore.create_or_open(small_config(federation__num_rounds=1), name)
        for number in range(1 + finished):
            commit(store, number)
        if finished:
            (store.folder / FINAL).mkdir()
        aside = store.folder / "rounds" / "0000.damaged-1"
        aside.mkdir()
        (aside / "global.safetensors").write_bytes(bytes(100))
        return store

    return make


def clean(store: RunStore, *options: str, answer: str = "") -> str:
    done = CliRunner().invoke(app, ["clean", "--outputs", str(store.folder.parent), *options], input=answer)
    if isinstance(done.exception, RunNameError):
        raise done.exception
    return done.output


def aside(store: RunStore) -> bool:
    return (store.folder / "rounds" / "0000.damaged-1").exists()


def test_nothing_goes_before_somebody_says_yes(made: Callable[..., RunStore]) -> None:
    store, unfinished = made("done"), made("half", finished=False)
    cache.write("kind", "key", {"a": 1})
    assert "set aside" in clean(store, "--dry-run")
    clean(store, answer="n\n")
    assert aside(store)
    assert cache.read("kind", "key")
    clean(store, answer="y\n")
    assert not aside(store)
    assert not cache.read("kind", "key")
    assert aside(unfinished), "what an unfinished run may still need"
    assert RunStore.open(store.folder).committed_rounds() == [0, 1]
    assert "nothing to remove" in clean(store, "--yes")


def test_runs_go_by_name_or_by_age_and_never_one_under_way(made: Callable[..., RunStore]) -> None:
    stores = [made(name) for name in ("first", "second", "third")]
    half = made("half", finished=False)
    assert "removed" in clean(half, "--keep", "2", "--yes")
    assert [store.folder.exists() for store in stores] == [False, True, True]
    with (half.folder / LOCK_FILE).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(RunNameError, match="is being advanced, and is not removed"):
            clean(half, "--run", "half", "--yes")
        assert half.folder.exists()
    clean(half, "--run", "half", "--yes")
    assert not half.folder.exists()
    with pytest.raises(RunNameError, match="no run 'gone'"):
        clean(half, "--run", "gone")
