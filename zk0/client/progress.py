"""How far a fit is, for the live view."""

import json
import os
import time
from contextlib import suppress

from loguru import logger

from zk0.files import untrusted
from zk0.layout import PROGRESS_FILE
from zk0.learning import training
from zk0.memory.sampler import MemorySampler
from zk0.memory.usage import peak_vram
from zk0.work.records import ClientTask

PROGRESS_INTERVAL_S = 0.5


def progress_to(task: ClientTask, steps: int, sampler: MemorySampler) -> training.OnStep:
    """Tell the live view how far the fit is (not synced: a lost file costs nothing), and the sampler of the GPU."""
    path, last = task.folder / PROGRESS_FILE, 0.0

    def on_step(step: int, loss: float) -> None:
        nonlocal last
        if (peak := peak_vram()) is not None:
            sampler.note_vram(peak)  # here, for LeRobot lets it begin anew at every step
        logger.debug("step {} of {}: loss {:.6f}", step, steps, loss)
        now = time.time()
        if now - last < PROGRESS_INTERVAL_S and step < steps:
            return
        last = now
        record = {"kind": task.kind, "step": step, "steps": steps, "loss": loss, "pid": os.getpid(), "updated_at": now}
        scratch = path.with_suffix(".tmp")
        with suppress(OSError):  # what only shows ends no fit
            with os.fdopen(untrusted.open_plain(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb") as file:
                file.write(json.dumps(record).encode())
            scratch.replace(path)

    return on_step
