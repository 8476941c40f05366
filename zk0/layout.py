"""The names of a run's files and folders, in one place; imports nothing of ours."""

from collections.abc import Iterator
from pathlib import Path

# -- in the run directory
RUN_FILE = "run.json"
"""What the run is: identity, frozen config, versions, seed."""
DATA_FILE = "data.json"
"""Which files its datasets had, to name what has changed; their digests are in RUN_FILE."""
LOCK_FILE = "run.lock"
"""Held by the one process that advances the run."""
STOPPED_FILE = "stopped"
"""Is there while a person wants the run to stand still: see `zk0.runs.will`."""
SERVED_FILE = "served.json"
"""Which flow run of Prefect advances the run, or did last; gone once another process takes the lock."""
TURN_FILE = ".turn"
"""In the folder of the runs: held by the one served run that is under way, and who has the turn."""
METRICS_LINES = "metrics.jsonl"
"""One line per committed round, of pruned ones too."""
DAMAGE_LINES = "damage.log"
"""What was found damaged and set aside, one line each."""
RUN_LOG = "run.log"
"""What the orchestrator says."""
MEMORY_FILE = "memory.jsonl"
"""Samples of the memory that a process uses: the orchestrator's, and a worker's in its own folder."""
ROUNDS_FOLDER = "rounds"
"""A folder per round: see `round_folder`."""
BASE_FOLDER = "base"
"""The base policy of a run that was made from scratch, as LeRobot loads it."""
FINAL = "final"
"""The policy after the last round, as LeRobot loads it."""
CHARTS_FOLDER = "charts"
"""PNG files, drawn anew after every round."""
REPORT_FILE = "report.html"
"""What `zk0 report` writes."""
PUSH_FOLDER = "push"
"""What `zk0 push` makes for the hub; gone once it is sent."""
TRACKING_FOLDER = "tracking"
"""What trackers keep of the run, a folder each."""
LIMITS_FOLDER = "limits"
"""What each client's memory can bear."""
COURIER_FOLDER = "courier"
"""Mailbox of a run over a link: requests to nodes, and their answers."""
DESCRIBED_FOLDER = "described"
"""What the nodes said of their recordings, a folder per client, in the place of the recordings."""
STAND_IN = "described.json"
"""In such a folder, in the place of meta/, data/ and videos/."""
COMPARE_FOLDER = "compare"
"""What `zk0 compare` trained: a run directory per arm."""
COMPARISON_FILE = "comparison.json"
"""In COMPARE_FOLDER: what came of it."""
COMPARISON_CHART = "compare.png"
"""In CHARTS_FOLDER: the same, drawn."""

# -- in a round's folder
MANIFEST = "manifest.json"
"""Written last, as in a fit's checkpoint: what is there with all its digests is whole."""
STRATEGY_TENSORS = "strategy.safetensors"
"""The strategy's state after the round, as far as it is tensors."""
STRATEGY_SCALARS = "strategy.json"
"""The rest of that state."""
METRICS_FILE = "metrics.json"
"""The round's line of METRICS_LINES."""
OPTIMIZERS_FOLDER = "optimizers"
"""Optimizers' states that are carried on from earlier rounds."""
CLIENTS_FOLDER = "clients"
"""A folder per client: see `client_folder`."""

# -- in a client's folder of a round
CLIENT_LOG = "client.log"
"""What its workers say."""
PROGRESS_FILE = "progress.json"
"""How far the work under way is, for the live view."""
ATTEMPTS_FILE = "attempts.jsonl"
"""A line per failed attempt."""
FIT_CHECKPOINT = "checkpoint"
"""Folder in which a fit under way saves its state."""
VIDEOS_FOLDER = "videos"
"""Folder with a rollout's videos: of no commit's digests, and removed with its round."""


def round_folder(run_dir: Path, server_round: int) -> Path:
    """Where a round's files lie: `rounds/<round>/`."""
    return run_dir / ROUNDS_FOLDER / f"{server_round:04d}"


def client_folder(run_dir: Path, server_round: int, client: str) -> Path:
    """Where a client's work in a round lies: `rounds/<round>/clients/<client>/`, all that its workers may write."""
    return round_folder(run_dir, server_round) / CLIENTS_FOLDER / client


def tensors_file(stem: str) -> str:
    """Tensors by name: `global` and `stats` of a round, a client's `optimizer`, or what `tensors_stem` names."""
    return f"{stem}.safetensors"


def tensors_stem(kind: str) -> str:
    """What the tensors that a piece of work gives are called: `update` of a fit, else as its kind."""
    return "update" if kind == "train" else kind


def result_file(kind: str) -> str:
    """What came of a piece of work, written last: it is done when this is there."""
    return f"{kind}.json"


def failure_file(kind: str) -> str:
    """Why the last worker at a piece of work ended, in its own words."""
    return f"{kind}.failed.json"


def worker_lock_file(kind: str) -> str:
    """Held by the worker that does a piece of work, while it lives."""
    return f"{kind}.lock"


def worker_locks(run_dir: Path) -> Iterator[Path]:
    """Every such file of a run, held or not."""
    return run_dir.glob(f"{ROUNDS_FOLDER}/*/{CLIENTS_FOLDER}/*/{worker_lock_file('*')}")
