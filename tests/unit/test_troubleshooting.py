"""docs/troubleshooting.md explains every message that the code has, and none that it has not."""

import re
from collections.abc import Iterator

import pytest

from benchmarks.service import ROOT
from tests.unit.messages import HOLE, RAISED, messages
from zk0 import errors

ZK0_ERRORS = {
    name: (1,) if issubclass(kind, errors.ClientError) else (0,)
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.Zk0Error)
}
"""Error -> the places of its text among the arguments."""
RUN = 4
"""Words in a row by which a message is known again; all of them where a text has fewer without a gap."""
FEWEST = 3
"""Words that make a message, or a part of one that is worth a row; less is a name, a unit or a conjunction."""
PARTS = (
    "and their gradients",
    "the number of [[clients]]",
    ", or lower num_malicious_nodes",
    "to ... s, and from ... s (from_timestamp)",
    "first at ... s of ...",
    "config.json and policy.overrides",
    "of ... GiB that the cgroup allows",
    "... % of the host's memory",
    ", and ... GiB on the GPU",
    "a chunk of actions lasts ... times as long",
    "of the GPU",
    "of the container",
    "of the cgroup",
    "dataset ...: video frames",
    "beside the others",
    "... before there was a run",
    "mean of the clients alone",
    "what the final policy sees",
    "; so it is with ...",
    "at no known place",
    "...; write it as ...",
)
"""What stands within a message, and is none: in its brackets, behind its colon."""
GOOD = (
    "off 1/... s by at most ... s",
    "... repeated in motion",
    "... to train on, ... held out",
    "the gate listens on ...:...",
    "rates, cameras, units and ranges are alike, no recording is twice",
)
"""What a check says where all is well."""
EXAMPLES = (
    *("<Class>: <text> (in <library>/...py:<line>, called at zk0/...)", "info.json: fps = ...", "total_... = ..."),
    *(
        "no model.safetensors: ...",
        "no policy_preprocessor.json: ...",
    ),
    "train of 'a': <Class>: <text> (in ...); see .../client.log",
)
"""Rows of which all words stand in gaps of the message."""
REMEDIES = (
    "fetch the recordings themselves: `git lfs install && git lfs pull` in that folder, or `hf download`",
    "see its permissions and its disk",
    'HfApi().create_tag("...", tag="...", repo_type="dataset")',
    "; choose another data.normalization, or convert the datasets again with LeRobot's own tools",
    "copy it there from the checkpoint, or give another folder",
    "LeRobot before 0.4 saved it, with the statistics among the weights; migrate a copy by `...` and give that",
    "copy all policy_*processor* files there from the checkpoint; where there never were any, LeRobot makes them: `...`",  # noqa: E501
    "check that path, then resume the run",
    "...: ... (...: ...); correct policy.overrides or the policy's folder, or take another policy",
    "...; lower training.lr or check its data",
    "...: ...; ask the coordinator for the right address",
)
"""What stands for itself in the code, and says what to do."""


def _runs(text: str) -> Iterator[list[str]]:
    """The words of a text that follow one another without a gap."""
    for piece in re.split(rf"{HOLE}|\.\.\.|<[\w ]+>", text):
        words = [word.strip(".,:;()'`?\"").lower() for word in piece.split()]
        yield [word for word in words if re.search(r"[a-z]{2}", word) and "/" not in word]


def _slices(text: str, most: int) -> set[str]:
    """By what a text is known: so many of its words in a row, or as many as it has in a row."""
    runs = list(_runs(text))
    size = min(most, max(map(len, runs)))
    return {_joined(words[at : at + size]) for words in runs if size for at in range(len(words) - size + 1)}


def _joined(words: list[str]) -> str:
    return f" {' '.join(words)} "


def _lacking(page: str, templates: dict[str, str]) -> dict[str, str]:
    """The messages that no first column of a table of a page has, and where they stand in the code."""
    rows = "|".join(_joined(words) for row in _rows(page) for words in _runs(row))
    lacking = {}
    for template, at in templates.items():
        fault = template.rpartition("; ")[0]
        fault = fault if any(_runs(fault)) else template  # the remedy after the last semicolon is left out
        if sum(map(len, _runs(fault))) >= FEWEST and not any(item in rows for item in _slices(fault, RUN)):
            lacking[template.replace(HOLE, "...")] = at
    return {text: at for text, at in lacking.items() if text not in (*PARTS, *GOOD, *REMEDIES)}


def _rows(page: str) -> list[str]:
    """The first columns of the tables."""
    lines = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith("| message")]
    return [line.split(" | ")[0][2:] for line in lines]


@pytest.fixture(scope="module")
def templates() -> dict[str, str]:
    return messages(ROOT, {**ZK0_ERRORS, **RAISED})


@pytest.fixture(scope="module")
def page() -> str:
    return (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")


def test_every_message_is_explained(page, templates):
    lacking = _lacking(page, templates)
    assert not lacking, "\n".join(f"{at}: {text}" for text, at in lacking.items())


def test_no_row_explains_what_nobody_says(page, templates):
    said = "|".join(_joined(words) for template in templates for words in _runs(template))
    patterns = [pattern for row in _rows(page) for pattern in re.findall(r"`([^`]+)`", row)]
    known = {text: {item for item in _slices(text, 2) if " " in item.strip()} for text in patterns}
    stale = [text for text, items in known.items() if items and not any(item in said for item in items)]
    stale = [text for text in stale if text not in EXAMPLES]
    assert not stale, "\n".join(stale)


def test_what_is_left_out_is_there(templates):
    texts = {template.replace(HOLE, "...") for template in templates}
    assert {*PARTS, *GOOD, *REMEDIES} <= texts


@pytest.mark.parametrize(
    ("words", "where"),
    [
        ("is a value, not a group", "zk0/config/load.py"),
        ("is a git-lfs pointer, not", "zk0/data/faults.py"),
        ("frames cannot be decoded", "zk0/data/videos.py"),
        ("that of its rows", "zk0/data/statistics_checks.py"),
        ("and its base is not there", "zk0/preflight/pretrained.py"),
        ("nothing was learned from it", "zk0/metrics/attendance.py"),
        ("the greatest whole number", "zk0/config/part.py"),
        ("compiled code crashed", "zk0/work/failure.py"),
    ],
)
def test_a_message_without_its_row_is_found(page, templates, words, where):
    """However it comes to be said: through names, parameters, fields, loops and functions that return a part of it."""
    cut = "\n".join(line for line in page.splitlines() if words not in line)
    assert any(at.startswith(where) for at in _lacking(cut, templates).values())
