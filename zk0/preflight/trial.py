"""The policy, built once before a run and tried: on a frame of every kind of dataset, and saved and loaded again."""

import copy
import math
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.policies import make_pre_post_processors
from lerobot.utils.random_utils import set_seed
from peft import PeftModel

from zk0.config import DatasetConfig, RunConfig
from zk0.data.datasets import build_dataset, open_metadata
from zk0.data.findings import DataFinding
from zk0.data.statistics import Stats, training_statistics
from zk0.errors import BadInputError, PolicyError
from zk0.layout import BASE_FOLDER, FINAL
from zk0.learning.build import check_finite, missing_weights, named_policy, plain_policy, with_adapters
from zk0.learning.evaluation import try_frame
from zk0.learning.exchange import exchanged_bytes, stays_behind
from zk0.learning.policy import Policy, Processor, base_config
from zk0.learning.processors import build_processors, saved_processors
from zk0.preflight.room import check_room
from zk0.seeding import derive_seed


class Piece(NamedTuple):
    """A dataset, opened, and what its frames go through."""

    dataset: DatasetConfig
    frames: LeRobotDataset
    preprocessor: Processor
    postprocessor: Processor


@dataclass(frozen=True)
class Trial:
    """A policy that was built and tried, for whoever needs it next; it is nobody's to keep."""

    policy: Policy
    first: Piece
    """Of the first client."""
    exchanged_bytes: int
    """One set of the tensors that travel."""
    base_bytes: int
    """The base that the run must keep in its own directory; 0 where it is policy.path as it is."""
    warnings: list[str] = field(default_factory=list)

    def findings(self) -> list[DataFinding]:
        """The warnings as what was found with the first client's recordings, on which the policy was tried."""
        who = self.first.dataset.name
        parts = [text.rpartition("; ") for text in self.warnings]
        return [
            DataFinding(dataset=who, check="policy", verdict="warning", seen=seen, remedy=remedy)
            for seen, _, remedy in parts
        ]


def tried(config: RunConfig) -> Trial:
    """Build the policy, and do with it once what a run does: look at frames, learn, predict, be saved and loaded again.

    Args:
        config: whose datasets have passed their own checks.

    Raises:
        ConfigError: its weights are more than memory holds.
        PolicyError: the first thing that would fail, with its remedy.
    """
    metas = {item.name: open_metadata(item) for item in [*config.clients, *config.evaluation.datasets]}
    client = config.clients[0]
    base = check_room_for(config, metas[client.name])
    set_seed(derive_seed(config.seed, 0, "", "base"))
    plain = plain_policy(base, metas[client.name], client.rename_map)
    check_finite(plain, named_policy(base))
    missing = missing_weights(plain, base)
    warnings = [_missing_warning(base, missing)] if missing else []
    made = bool(config.policy.path is None or base.use_peft or missing)
    base_bytes = sum(value.numel() * value.element_size() for value in plain.state_dict().values()) if made else 0
    policy = with_adapters(plain, config.peft)
    if not (size := exchanged_bytes(policy)):
        raise PolicyError(f"{named_policy(base)}: nothing of it is trained; see peft and policy.overrides")
    with tempfile.TemporaryDirectory(prefix="zk0-") as scratch:
        if made:
            base = _saved_base(base, Path(scratch) / BASE_FOLDER)
        pieces = [_piece(config, item, metas[item.name], policy, base) for item in _kinds(config, metas)]
        before = {name: value.clone() for name, value in policy.named_buffers()}
        for piece in pieces:
            _look(policy, piece, learns=piece is pieces[0], acts=bool(config.evaluation.environments))
        if stays := stays_behind(policy, config, before):
            warnings.append(_stays_warning(base, stays, private=config.federation.privacy.active))
        _leave(config, policy, base, pieces[0], Path(scratch) / FINAL)
    return Trial(policy, pieces[0], size, base_bytes, warnings)


def check_room_for(config: RunConfig, meta: LeRobotDatasetMetadata | None = None) -> PreTrainedConfig:
    """See that memory can hold a policy; gives LeRobot's config of it.

    Args:
        config: whose policy it is.
        meta: of the first client's dataset, where it is known.

    Raises:
        ConfigError: its weights are more than memory holds.
    """
    client = config.clients[0]
    meta = meta or open_metadata(client)
    base = base_config(config, meta)
    check_room(base, meta, client.rename_map, adapters=config.peft.enabled)
    return base


def _kinds(config: RunConfig, metas: dict[str, LeRobotDatasetMetadata]) -> list[DatasetConfig]:
    """The datasets of which none gives the policy the same kind of frames as another, the first client's first."""
    seen: dict[str, DatasetConfig] = {}
    for item in [*config.clients, *config.evaluation.datasets]:
        meta = metas[item.name]
        shapes = sorted((key, value["dtype"], *value["shape"]) for key, value in meta.features.items())
        seen.setdefault(repr((shapes, meta.fps, sorted(item.rename_map.items()), _stats_kind(config, item))), item)
    return list(seen.values())


def _stats_kind(config: RunConfig, item: DatasetConfig) -> bool:
    """Whether a dataset is normalised by statistics of recordings, not by the base's."""
    kind = config.data.normalization
    return kind == "federated" or (kind == "own" and item in config.clients)


def _piece(
    config: RunConfig, item: DatasetConfig, meta: LeRobotDatasetMetadata, policy: Policy, base: PreTrainedConfig
) -> Piece:
    stats: Stats | None = None
    if _stats_kind(config, item):
        source = item if item in config.clients else config.clients[0]
        stats = training_statistics(
            meta if source is item else open_metadata(source), config.evaluation.holdout_episodes
        )
    try:
        processors = build_processors(base, stats, item.rename_map)
        frames = build_dataset(item, meta, policy.config, config.data, [0])
    except BadInputError:
        raise
    except Exception as error:  # whatever LeRobot raises for what the checks passed over
        raise _failed(item, policy, error) from error
    return Piece(item, frames, *processors)


def _look(policy: Policy, piece: Piece, *, learns: bool, acts: bool) -> None:
    """Predict and reckon the loss on one frame, as evaluation does; and as a step of learning does, on two."""
    pipelines = piece.preprocessor, piece.postprocessor
    try:
        loss = try_frame(policy, *pipelines, piece.frames, learns=learns, acts=acts)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever a policy's own code raises
        raise _failed(piece.dataset, policy, error) from error
    if not math.isfinite(loss):
        raise PolicyError(
            f"dataset {piece.dataset.name!r}: the loss of the policy ({policy.config.type}) on its first frame is "
            f"{loss}; look at its values and statistics, or give another base"
        )


def _failed(item: DatasetConfig, policy: Policy, error: Exception) -> PolicyError:
    said = " ".join(str(error).split())[:500]
    return PolicyError(
        f"dataset {item.name!r}: the policy ({policy.config.type}) cannot go through its first frame "
        f"({type(error).__name__}: {said}); correct policy.overrides, rename_map or data.normalization, or take a base "
        "that was made for such recordings"
    )


def _saved_base(base: PreTrainedConfig, folder: Path) -> PreTrainedConfig:
    """A base as a run keeps it, but for its weights: as the run will read it, its pipelines come from the folder."""
    _save_all(base, saved_processors(base), folder)
    kept = copy.copy(base)
    kept.use_peft, kept.pretrained_path, kept.pretrained_revision = False, folder, None
    return kept


def _leave(config: RunConfig, policy: Policy, base: PreTrainedConfig, piece: Piece, folder: Path) -> None:
    """Save what `final/` will be, but for the weights of a policy that is trained as a whole, and load it again.

    Raises:
        PolicyError: one of the two cannot be done.
    """
    processors: tuple[Any, Any] = (piece.preprocessor, piece.postprocessor)
    if config.data.normalization == "own":
        processors = build_processors(base, None, piece.dataset.rename_map)  # the final policy is nobody's own
    try:
        if isinstance(policy, PeftModel):
            policy.save_pretrained(str(folder))
        _save_all(policy.config, processors, folder)
        again = PreTrainedConfig.from_pretrained(folder)
        make_pre_post_processors(again, str(folder))
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever a policy's own code raises
        said = " ".join(str(error.__cause__ or error).split())
        raise PolicyError(
            f"{named_policy(base)}: the final policy cannot be saved and loaded again "
            f"({type(error).__name__}: {said}); correct policy.overrides, or take another policy"
        ) from error


def _save_all(config: PreTrainedConfig, processors: tuple[Processor, Processor], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    for pipeline in processors:
        pipeline.save_pretrained(folder)


def _stays_warning(base: PreTrainedConfig, names: list[str], *, private: bool) -> str:
    remedy = (
        "take a setting of the policy without them, or no federation.privacy, if that matters"
        if private
        else "name their modules in peft.full_training_modules, or train all of it (peft.enabled = false), if that "
        "matters"
    )
    why = "bear no noise (federation.privacy)" if private else "are no adapters"
    return (
        f"{named_policy(base)}: learning changes {len(names)} of its tensors that {why} and do not travel ({names[0]}, "
        f"...): every round, and the final policy, has them as they were at first; {remedy}"
    )


def _missing_warning(base: PreTrainedConfig, missing: list[str]) -> str:
    return (
        f"{named_policy(base)}: model.safetensors lacks {len(missing)} of the policy's tensors ({missing[0]}, ...); "
        "they begin at random, as in lerobot-train, the same for all clients, and the run keeps that base in base/; "
        "give the whole weights, if that was not meant"
    )
