"""What is learned from and judged by: [[clients]], [data], [evaluation]."""

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from zk0.config.part import Name, Part, size_in_bytes
from zk0.config.paths import FilePath

UNITS = ("deg", "rad", "m", "%")


class DatasetConfig(Part):
    """One LeRobot dataset (v3 format), on disk or on the Hugging Face hub."""

    name: Name
    """Short name: folder in the run directory and label in tables, logs and the Prefect UI."""
    repo_id: str
    """The dataset's hub id, such as `lerobot/svla_so101_pickplace`; any `owner/name` when `root` is given."""
    root: FilePath | None = None
    """Folder of the dataset; relative to the config file. Without it the hub's copy is fetched and cached."""
    revision: str | None = None
    """Hub revision (branch, tag or commit)."""
    rename_map: dict[str, str] = Field(default_factory=dict)
    """Dataset feature -> policy feature, as in `lerobot-train`:
    {"observation.images.top" = "observation.images.camera1"}."""


class ClientConfig(DatasetConfig):
    """A client: a private dataset, and how much it trains."""

    steps: int | None = Field(default=None, ge=1)
    """Optimizer steps of this client in each round, in place of training.steps: less for a slow machine or a small
    dataset. Its learning rate follows the schedule over num_rounds x its own steps."""


class DataConfig(Part):
    """How datasets are read and normalised."""

    normalization: Literal["base", "federated", "own"] = "federated"
    """`base`: the statistics saved with policy.path; `federated`: clients send counts and moments of their training
    episodes, aggregated by LeRobot's `aggregate_stats` (hold-outs are never in them); `own`: each client uses those of
    its training episodes, which never leave it, and all else (evaluation.datasets, the final policy) the base's."""
    tolerance_s: float = Field(default=1e-4, gt=0)
    """Largest deviation of a time stamp from 1/fps, in seconds."""
    video_backend: Literal["pyav", "torchcodec"] = "pyav"
    """Video decoder; torchcodec needs ffmpeg's shared libraries."""
    cache: Literal["auto", "ram", "disk", "off"] = "auto"
    """Where the camera frames of videos are kept once they are decoded, three bytes a pixel, so that fits and
    evaluations of all rounds share them: `disk`: in ~/.cache/zk0/frames, for other runs, too; `ram`: in /dev/shm until
    the command ends; `auto`: on the disk, or in memory where that cannot be written, and only where the run draws so
    many frames that it pays; `off`: they are decoded whenever they are drawn. In a container each piece of work has its
    own. The bytes of a run are the same in all four; see [data.md](data.md#frames-are-decoded-once)."""
    cache_limit: str | None = None
    """Most bytes of all frames that are kept there together, such as "20g"; recordings that find no room are decoded as
    they are drawn. When absent: a tenth of the free disk, or a quarter of the free memory."""
    unit: str | dict[str, str] | None = None
    """What the joints but the grippers are recorded in, "deg", "rad", "m" or "%"; or joint -> unit, by names or
    patterns of which the first that fits counts: {rail = "m", "*" = "rad"}. It stands in tables, charts, logs and the
    keys of metrics; no value is converted. Left out, the joints' names and the robot's type say it where they can, see
    [data.md](data.md); else there is none."""
    grippers: list[str] = Field(default=["*gripper*"])
    """Names or patterns of the joints that are grippers, whose error is a figure of its own: ["*gripper*", "*hand*"];
    letters large and small are the same."""

    @field_validator("cache_limit")
    @classmethod
    def _size(cls, value: str | None) -> str | None:
        if value is not None:
            size_in_bytes(value)
        return value

    @field_validator("unit", mode="before")
    @classmethod
    def _known_units(cls, unit: Any) -> Any:
        for word in unit.values() if isinstance(unit, dict) else [] if unit is None else [unit]:
            if word not in UNITS:
                raise ValueError(f"{word!r} is no unit that is known here; use one of {', '.join(map(repr, UNITS))}")
        return unit


class EnvironmentConfig(Part):
    """A simulated environment in which the policy acts: one of LeRobot's, named as for `lerobot-eval`."""

    name: Name
    """Short name: folder in the run directory and label in tables, logs and the Prefect UI."""
    type: str
    """LeRobot's environment type (`--env.type` of `lerobot-eval`), such as `zk0_so101`."""
    plugin: str | None = None
    """Python package that registers the type when it is imported (`--env.discover_packages_path`), such as `zk0.sim`;
    not needed for LeRobot's own types. Its code runs with your rights."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Fields of the type's config (`--env.<field>`), such as {setting = "kitchen"}; unknown fields are refused."""
    rename_map: dict[str, str] = Field(default_factory=dict)
    """Environment's feature -> policy feature, as in a dataset's rename_map."""
    episodes: int = Field(default=20, ge=1)
    """Episodes in every round that is evaluated in full; their positions are the same in all of them."""
    first_seed: int = Field(default=0, ge=0)
    """Seed of the first episode in the environment; the others follow, one by one."""
    videos: int = Field(default=0, ge=0)
    """How many of the first episodes are kept as mp4, in the round's folder, and removed with it."""

    @model_validator(mode="after")
    def _videos_are_of_episodes(self) -> Self:
        if self.videos > self.episodes:
            raise ValueError(f"videos = {self.videos} is more than episodes = {self.episodes}; lower it")
        return self


class EvaluationConfig(Part):
    """Held-out evaluation, the same frames and seeds in every round, and success in simulation."""

    holdout_episodes: int = Field(default=3, ge=1)
    """The last episodes of every client's dataset: never trained on, never in the statistics."""
    batch_size: int = Field(default=32, ge=1)
    """Frames per evaluation batch."""
    frame_stride: int = Field(default=1, ge=1)
    """Evaluate every n-th frame of the held-out episodes; 1 is all of them."""
    full_every: int = Field(default=1, ge=0)
    """Every n-th round is evaluated in full, and so are round 0 and the last one; the others are evaluated quickly, on
    fewer frames. 1: all in full; 0: none but those two. With quick rounds among them, rounds are compared on the quick
    frames alone, which the full ones have figures of, too; see [learning.md](learning.md)."""
    quick_stride: int = Field(default=4, ge=2)
    """A quick evaluation takes every n-th of the frames of a full one."""
    best_metric: Literal[
        "action_error", "gripper_error", "loss", "unseen_action_error", "unseen_loss", "success_rate"
    ] = "action_error"
    """What rounds are compared by: the best round is kept by it, and `adaptive.plateau_patience` watches it. The mean
    over the clients' hold-outs, or with `unseen_` over evaluation.datasets, lower being better; `success_rate`: success
    over the episodes of evaluation.environments, in the rounds that have it."""
    datasets: list[DatasetConfig] = Field(default_factory=list)
    """Datasets of settings that no client trains on, evaluated by the server in every round."""
    environments: list[EnvironmentConfig] = Field(default_factory=list)
    """Simulated environments in which the policy acts, in rounds that are evaluated in full; see
    [learning.md](learning.md)."""

    @property
    def quickly(self) -> Self:
        """The same for a quick evaluation, on every `quick_stride`-th of the frames."""
        return self.model_copy(update={"frame_stride": self.frame_stride * self.quick_stride})
