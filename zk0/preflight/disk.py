"""Whether the disk has the room that a run needs."""

import shutil

from zk0.config.paths import absolute_path
from zk0.errors import ConfigError
from zk0.files import atomic
from zk0.files.atomic import exists


def check_free_space(outputs_dir: str, needed_bytes: int) -> None:
    """Refuse to start on a disk that is too small; nothing is created.

    Raises:
        ConfigError: less than `needed_bytes` are free.
    """
    folder = absolute_path(outputs_dir)
    existing = next(path for path in (folder, *folder.parents) if exists(path))
    with atomic.storage_errors(existing, "measured"):
        free = shutil.disk_usage(existing).free
    if free < needed_bytes:
        raise ConfigError(
            f"outputs_dir = {outputs_dir!r}: the run needs {needed_bytes / 2**30:.2f} GiB and "
            f"{free / 2**30:.2f} GiB are free; free some space or choose an outputs_dir on another disk"
        )
