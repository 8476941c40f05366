"""A policy's processors, with the statistics that they normalise by."""

from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import NormalizationMode
from lerobot.policies import make_pre_post_processors
from lerobot.processor import NormalizerProcessorStep, UnnormalizerProcessorStep

from zk0.data.statistics import Stats
from zk0.errors import PolicyError
from zk0.learning.build import named_policy
from zk0.learning.policy import VLM_FOLDER, Processor

NORMALIZED_BY = {
    NormalizationMode.IDENTITY: (),
    NormalizationMode.MEAN_STD: ("mean", "std"),
    NormalizationMode.MIN_MAX: ("min", "max"),
    NormalizationMode.QUANTILES: ("q01", "q99"),
    NormalizationMode.QUANTILE10: ("q10", "q90"),
}
"""The statistics that LeRobot's normaliser reads in each mode; without any it passes values through in silence."""
LONGEST_WORDS = 500
"""Characters of a library's words that a message gives: some list all that they know."""


def build_processors(
    config: PreTrainedConfig, stats: Stats | None, rename_map: dict[str, str]
) -> tuple[Processor, Processor]:
    """Make the pre- and post-processor, with the base's own statistics or the given ones.

    Raises:
        PolicyError: a feature that is normalised has no statistics; LeRobot would silently pass it through.
    """
    features = {**(config.input_features or {}), **(config.output_features or {})}
    normalizer: dict[str, Any] = {"features": features, "norm_map": config.normalization_mapping}
    unnormalizer: dict[str, Any] = {"features": config.output_features, "norm_map": config.normalization_mapping}
    if stats is not None:
        renamed = {rename_map.get(key, key): value for key, value in stats.items()}
        normalizer["stats"] = unnormalizer["stats"] = renamed
    before: dict[str, Any] = {
        "normalizer_processor": normalizer,
        "rename_observations_processor": {"rename_map": rename_map},
    }
    pipelines = _loaded(config, before, {"unnormalizer_processor": unnormalizer})
    for pipeline in pipelines:
        _check_statistics(pipeline, "data.normalization" if stats is not None else named_policy(config))
    return pipelines


def saved_processors(config: PreTrainedConfig) -> tuple[Processor, Processor]:
    """The pipelines as they are saved with a base, or new ones without statistics for a policy made from scratch.

    Raises:
        PolicyError: they cannot be loaded or made.
    """
    if config.pretrained_path is not None:
        return _loaded(config, {}, {})
    try:
        made: tuple[Processor, Processor] = make_pre_post_processors(config)
    except Exception as error:  # whatever a policy's own code raises
        raise _unmade(config, error) from error
    return made


def _loaded(config: PreTrainedConfig, before: dict[str, Any], after: dict[str, Any]) -> tuple[Processor, Processor]:
    """The pipelines of the policy's folder, with other arguments for some of their steps."""
    before["device_processor"] = {"device": config.device}
    if getattr(config, "vlm_model_name", None) and (Path(str(config.pretrained_path)) / VLM_FOLDER).is_dir():
        before["tokenizer_processor"] = {"tokenizer_name": str(Path(str(config.pretrained_path)) / VLM_FOLDER)}
    try:
        loaded: tuple[Processor, Processor] = make_pre_post_processors(
            policy_cfg=config,
            pretrained_path=str(config.pretrained_path),
            pretrained_revision=config.pretrained_revision,
            preprocessor_overrides=before,
            postprocessor_overrides=after,
        )
    except Exception as error:  # whatever a step's own code raises; LeRobot's migration error cannot be pickled
        raise _unmade(config, error) from error
    return loaded


def _unmade(config: PreTrainedConfig, error: Exception) -> PolicyError:
    said = shorten(str(error), LONGEST_WORDS, placeholder=" ...")
    return PolicyError(
        f"{named_policy(config)}: LeRobot cannot make its processors ({type(error).__name__}: {said}); "
        "correct policy_preprocessor.json and policy_postprocessor.json, or restore them and the files that they name "
        "from the checkpoint"
    )


def _check_statistics(pipeline: Processor, whose: str) -> None:
    for step in pipeline.steps:
        if not isinstance(step, NormalizerProcessorStep | UnnormalizerProcessorStep):
            continue
        state = step.state_dict()
        for key, feature in step.features.items():
            mode = step.norm_map.get(feature.type, NormalizationMode.IDENTITY)
            wanted = [f"{key}.{name}" for name in NORMALIZED_BY[mode]]
            if missing := [name.rsplit(".", 1)[1] for name in wanted if name not in state]:
                raise PolicyError(
                    f"{key!r} is to be normalised ({mode.value}) but has no statistics ({', '.join(missing)})"
                    + _remedy(key, state, whose)
                )
            if odd := [name for name in wanted if not torch.isfinite(state[name]).all()]:
                raise PolicyError(
                    f"{whose}: the statistic {odd[0]} is NaN or infinite, and {key!r} would be, too; restore it, or "
                    "choose another data.normalization"
                )


def _remedy(key: str, state: dict[str, torch.Tensor], whose: str) -> str:
    """What to do about a feature without statistics, which may be there under the name of a dataset."""
    ends = (f".{key}.", f".{key.replace('.', '_')}.", f"_{key.replace('.', '_')}.")
    keyed = sorted(name for name in state if any(end in f".{name}" for end in ends) and not name.startswith(f"{key}."))
    if keyed:
        return (
            f": those of {whose} are kept by dataset ({keyed[0]!r}), which LeRobot does not read; choose "
            "data.normalization = 'federated'"
        )
    return "; choose another data.normalization, or convert the datasets again with LeRobot's own tools"
