"""The paths in info.json in which numbers of chunks, files and episodes are set."""

import re
from collections.abc import Collection, Sequence
from pathlib import PurePath
from string import Formatter
from typing import Any

from zk0.data.faults import shown

WIDTH = re.compile(r"0?\d?d?")
"""How a number in a path is written, such as `03d`; a width of ten digits would fill the memory."""
CAMERA = "video_key"


def template_fault(
    key: str, template: Any, numbers: Collection[str], default: str, cameras: Sequence[str] | None = None
) -> tuple[str, str] | None:
    """What is wrong with a path in info.json, and what to do; None where files below the dataset's folder lie under it.

    Args:
        key: such as `data_path`.
        template: its value.
        numbers: the fields in which LeRobot sets numbers.
        default: LeRobot's own.
        cameras: those whose videos lie under it; None for a path of no videos.
    """
    wanted = sorted([*numbers, CAMERA] if cameras is not None else numbers)
    seen, remedy = f"{key} = {shown(template)}", f"write {default!r}, or a path of that kind in the dataset's folder"
    odd = f"{seen} is no path with {' and '.join(wanted)}", remedy
    try:
        fields = [(name, spec, turned) for _, name, spec, turned in Formatter().parse(template) if name is not None]
    except (TypeError, ValueError):
        return odd
    for name, spec, turned in fields:
        if name not in wanted or turned or not WIDTH.fullmatch(spec or "") or (name == CAMERA and spec):
            return odd
    filled = [template.format_map(dict.fromkeys(numbers, 0) | {CAMERA: camera}) for camera in cameras or [""]]
    for path in map(PurePath, filled):
        if path.is_absolute() or ".." in path.parts or "\0" in str(path):
            return f"{seen} leads out of the dataset's folder ({path})", remedy
    if len(set(filled)) < len(filled):
        return f"{seen} has no {{{CAMERA}}}: all cameras would show the same", remedy
    return None
