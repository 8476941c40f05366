"""Names bound to nodes."""

import pytest

from zk0.errors import BadInputError, StorageError
from zk0.link import registry

LARGE = 2**64 - 5  # Flower's ids take all of 64 bits


def test_a_name_is_bound_until_it_is_revoked_and_its_key_is_remembered(tmp_path):
    registry.add(tmp_path, "kitchen", LARGE, "SHA256:a")
    registry.add(tmp_path, "workshop", 7, "SHA256:b")
    assert registry.bound(tmp_path) == {"kitchen": LARGE, "workshop": 7}
    registry.remove(tmp_path, "kitchen")
    assert registry.bound(tmp_path) == {"workshop": 7}
    assert registry.known(tmp_path) == ({"SHA256:b": "workshop"}, {"SHA256:a": "kitchen"})
    registry.add(tmp_path, "kitchen", 8, "SHA256:a")
    assert registry.known(tmp_path).revoked == {}


@pytest.mark.parametrize(
    ("name", "key", "words"),
    [
        ("kitchen", "SHA256:new", "registered already, with the key SHA256:a"),
        ("study", "SHA256:a", "that of 'kitchen'"),
        ("Study", "SHA256:new", "small letters"),
        ("../x", "SHA256:new", "small letters"),
        ("", "SHA256:new", "small letters"),
    ],
)
def test_a_name_or_a_key_that_is_taken_or_none_is_refused(tmp_path, name, key, words):
    registry.add(tmp_path, "kitchen", 7, "SHA256:a")
    with pytest.raises(BadInputError, match=words):
        registry.check_new(tmp_path, name, key)


def test_who_is_not_registered_cannot_be_revoked(tmp_path):
    with pytest.raises(BadInputError, match="registered are: none"):
        registry.remove(tmp_path, "kitchen")


@pytest.mark.parametrize("text", ["", "[]", '{"kitchen": {}}', '{"kitchen": {"node_id": "x"}}', "{"])
def test_a_damaged_list_is_named(tmp_path, text):
    (tmp_path / "clients.json").write_text(text)
    with pytest.raises(StorageError, match=r"clients\.json"):
        registry.bound(tmp_path)
