"""Who was refused again and again sits out, until a person lifts that."""

import pytest

from tests.unit.runs.made import commit
from zk0.errors import QuarantineError
from zk0.files import atomic
from zk0.runs.store import RunStore
from zk0.work import quarantine


def test_who_is_quarantined_sits_out_later_rounds_until_the_file_is_removed(store: RunStore) -> None:
    state = commit(store, 0)
    quarantine.put(store.folder, "kitchen", 3, ["round 2: too large", "round 3: too large"])
    for number in (1, 3):  # of a round that is made again, nothing may be otherwise
        quarantine.check(store.task("train", number, "kitchen", state))
    for client, kind in (("kitchen", "evaluate"), ("workshop", "train")):
        quarantine.check(store.task(kind, 4, client, state))  # type: ignore[arg-type]
    with pytest.raises(QuarantineError) as caught:
        quarantine.check(store.task("train", 4, "kitchen", state))
    assert not caught.value.retriable
    path = quarantine.path_of(store.folder, "kitchen")
    assert path.relative_to(store.folder).as_posix() == "limits/kitchen.admission.json"
    for words in ("'kitchen' is quarantined", "refused in 2 rounds running (round 3: too large)", f"remove {path}"):
        assert words in str(caught.value)
    path.unlink()
    quarantine.check(store.task("train", 4, "kitchen", state))


def test_what_cannot_be_read_counts_as_nothing(store: RunStore, warnings: list[str]) -> None:
    quarantine.put(store.folder, "kitchen", 3, ["x"])
    quarantine.path_of(store.folder, "kitchen").write_text("{")
    assert quarantine.read(store.folder, "kitchen") is None
    assert "Why kitchen sits out is lost" in warnings[0]
    atomic.write_sealed(
        quarantine.path_of(store.folder, "kitchen"), {"client": "kitchen", "server_round": 3, "reasons": []}
    )
    assert quarantine.read(store.folder, "kitchen") is None
