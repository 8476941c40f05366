"""Requests and answers as Flower's records: one text, and files byte for byte, in an array each."""

import json
from collections.abc import Mapping, Sequence

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

TEXT, FILES = "zk0", "files"


def packed(text: Mapping[str, str], files: Sequence[bytes] = ()) -> RecordDict:
    """A message's content.

    Args:
        text: by name.
        files: what comes with it, in order.
    """
    content = RecordDict({TEXT: ConfigRecord({"json": json.dumps(dict(text))})})
    if files:
        record = ArrayRecord()
        for number, data in enumerate(files):
            record[str(number)] = Array(dtype="uint8", shape=(len(data),), stype="safetensors", data=data)
        content[FILES] = record
    return content


def text_of(content: RecordDict) -> dict[str, str]:
    """The texts of a message, by name.

    Raises:
        ValueError: it has none, or no plain ones.
    """
    record = content.get(TEXT)
    if not isinstance(record, ConfigRecord) or not isinstance(said := record.get("json"), str):
        raise ValueError("no message of zk0")  # noqa: TRY004 - what was sent is odd, not our call
    found = json.loads(said)
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise ValueError("no message of zk0")
    return found


def files_of(content: RecordDict) -> list[bytes]:
    """What came with a message, in order."""
    record = content.get(FILES)
    if not isinstance(record, ArrayRecord):
        return []
    return [record[name].data for name in sorted(record, key=int)]
