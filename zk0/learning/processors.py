"""A policy's processors, with the statistics that they normalise by."""

from pathlib import Path
from typing import Any

from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import NormalizationMode
from lerobot.policies import make_pre_post_processors
from lerobot.processor import NormalizerProcessorStep, UnnormalizerProcessorStep

from zk0.data.statistics import Stats
from zk0.errors import PolicyError
from zk0.learning.policy import VLM_FOLDER, Processor

NORMALIZED_BY = {
    NormalizationMode.IDENTITY: (),
    NormalizationMode.MEAN_STD: ("mean", "std"),
    NormalizationMode.MIN_MAX: ("min", "max"),
    NormalizationMode.QUANTILES: ("q01", "q99"),
    NormalizationMode.QUANTILE10: ("q10", "q90"),
}
"""The statistics that LeRobot's normaliser reads in each mode; without any it passes values through in silence."""


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
        "device_processor": {"device": config.device},
        "normalizer_processor": normalizer,
        "rename_observations_processor": {"rename_map": rename_map},
    }
    if getattr(config, "vlm_model_name", None) and (Path(str(config.pretrained_path)) / VLM_FOLDER).is_dir():
        before["tokenizer_processor"] = {"tokenizer_name": str(Path(str(config.pretrained_path)) / VLM_FOLDER)}
    preprocessor, postprocessor = make_pre_post_processors(
        policy_cfg=config,
        pretrained_path=str(config.pretrained_path),
        pretrained_revision=config.pretrained_revision,
        preprocessor_overrides=before,
        postprocessor_overrides={"unnormalizer_processor": unnormalizer},
    )
    for pipeline in (preprocessor, postprocessor):
        _check_statistics(pipeline)
    return preprocessor, postprocessor


def _check_statistics(pipeline: Processor) -> None:
    for step in pipeline.steps:
        if not isinstance(step, NormalizerProcessorStep | UnnormalizerProcessorStep):
            continue
        for key, feature in step.features.items():
            mode = step.norm_map.get(feature.type, NormalizationMode.IDENTITY)
            missing = [name for name in NORMALIZED_BY[mode] if f"{key}.{name}" not in step.state_dict()]
            if missing:
                raise PolicyError(
                    f"{key!r} is to be normalised ({mode.value}) but has no statistics ({', '.join(missing)}); "
                    "choose another data.normalization, or convert the datasets again with LeRobot's own tools"
                )
