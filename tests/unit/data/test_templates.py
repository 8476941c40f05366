"""Paths in info.json lead to files of the dataset, or are named."""

from typing import Any

import pytest

from zk0.data.templates import template_fault

PLACE = ("chunk_index", "file_index")
DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
CAMERAS = ["front", "wrist"]
NO_PATH = r"is no path with chunk_index and file_index"
OUT = "leads out of the dataset's folder"


def fault(template: Any, cameras: list[str] | None = None) -> str | None:
    key, default = ("data_path", DATA) if cameras is None else ("video_path", VIDEO)
    found = template_fault(key, template, PLACE, default, cameras)
    if found is None:
        return None
    assert found[0].startswith(f"{key} = "), "it names the key"
    assert default in found[1], "it says what to write"
    return found[0]


@pytest.mark.parametrize(
    ("template", "cameras"),
    [
        (DATA, None),
        (VIDEO, CAMERAS),
        ("data/{chunk_index}/{file_index:d}.parquet", None),
        ("data/chunk-000/all.parquet", None),
        ("./data/..hidden/{file_index}.parquet", None),
        ("videos/{file_index}.mp4", ["front"]),
        ("{video_key}/{chunk_index:02}/{file_index:4d}.mp4", CAMERAS),
    ],
)
def test_paths_that_lerobot_fills(template: str, cameras: list[str] | None) -> None:
    assert fault(template, cameras) is None


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("/etc/passwd", OUT),
        ("//data/{chunk_index}/{file_index}", OUT),
        ("../{chunk_index}/{file_index}.parquet", OUT),
        ("data/../../{file_index}.parquet", OUT),
        ("data/\0{file_index}", OUT),
        ("data/{0}/{1}", NO_PATH),
        ("data/{}", NO_PATH),
        ("data/{chunk_index.__class__}/{file_index}", NO_PATH),
        ("data/{chunk_index[0]}/{file_index}", NO_PATH),
        ("data/{chunk_index!r}/{file_index}", NO_PATH),
        ("data/{chunk_index:0999999999d}/{file_index}", NO_PATH),
        ("data/{chunk_index:{file_index}}", NO_PATH),
        ("data/{video_key}/{file_index}", NO_PATH),
        ("data/{chunk_index", NO_PATH),
        ("data/chunk_index}", NO_PATH),
        (None, NO_PATH),
        (7, NO_PATH),
        (["data"], NO_PATH),
        ({"data": 1}, NO_PATH),
    ],
)
def test_paths_that_lead_nowhere_or_elsewhere(template: Any, said: str) -> None:
    found = fault(template)
    assert found is not None
    assert said in found


@pytest.mark.parametrize(
    ("template", "cameras", "said"),
    [
        ("videos/{file_index}.mp4", CAMERAS, "has no {video_key}: all cameras would show the same"),
        ("videos/{video_key:5}/{file_index}.mp4", CAMERAS, "is no path with chunk_index and file_index and video_key"),
        (VIDEO, ["front", "../../home"], OUT),
        ("{video_key}/{file_index}.mp4", ["/etc"], OUT),
    ],
)
def test_paths_of_videos(template: str, cameras: list[str], said: str) -> None:
    found = fault(template, cameras)
    assert found is not None
    assert said in found
