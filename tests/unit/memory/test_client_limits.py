"""What a client could not bear is noted, within bounds."""

from zk0.memory import client_limits
from zk0.runs.store import RunStore


def test_notes_of_a_client_do_not_pile_up(store: RunStore) -> None:
    for number in range(client_limits.KEPT + 20):
        client_limits.ran_out(store.task("train", number, "kitchen"), 16, "figures")
    notes = client_limits.read(store.folder, "kitchen", "train").notes
    assert [note.server_round for note in notes] == list(range(20, client_limits.KEPT + 20))
