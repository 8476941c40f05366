"""A run directory written piece by piece, and what the view of it says."""

import fcntl
import io
import json
import os
import socket
from contextlib import contextmanager

from rich.console import Console

CLIENTS = ("kitchen", "workshop")


def text_of(renderable) -> str:
    text = io.StringIO()
    Console(file=text, width=140).print(renderable)
    return text.getvalue()


class Run:
    """Writes a run directory piece by piece, in the formats of a real run."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        config = {
            "federation": {"num_rounds": 3},
            "training": {"steps": 35},
            "clients": [{"name": name} for name in CLIENTS],
            "evaluation": {"datasets": [{"name": "attic"}]},
        }
        (folder / "run.json").write_text(json.dumps({"id": "x", "config": config}))

    def work(self, server_round, client, name, **content):
        path = self.folder / "rounds" / f"{server_round:04d}" / "clients" / client / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))

    def commit(self, server_round, errors, failures=(), duration_s=60.0, **more):
        names = (*CLIENTS, "attic")
        line = {
            "server_round": server_round,
            "train": {name: {"loss": 0.5 - server_round / 10, "num_examples": 100} for name in CLIENTS},
            "evaluate": {
                name: {"action_error_deg": error, "gripper_error": 10 * error, "loss": error / 10}
                for name, error in zip(names, errors, strict=False)
            },
            "summary": {"action_error_deg": sum(errors[:2]) / 2, "unseen_action_error_deg": 7.0, "train_loss": 0.4},
            "failures": list(failures),
            "duration_s": duration_s,
        }
        with (self.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line | more) + "\n")

    @contextmanager
    def lock(self, pid=None):
        with (self.folder / "run.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(json.dumps({"pid": pid or os.getpid(), "host": socket.gethostname()}))
            file.flush()
            yield


FAILURE = {"client": "workshop", "server_round": 1, "kind": "train", "cause": "out_of_memory", "message": "killed"}
