"""RunConfig: everything a run depends on, validated before anything starts; TOML files plus `--set key=value`."""

from zk0.config.learning import (
    SCHEDULER_KEYS,
    STRATEGY_KEYS,
    AdaptiveConfig,
    FederationConfig,
    PeftConfig,
    PolicyConfig,
    TrainingConfig,
)
from zk0.config.load import load_config, shipped_configs, validate_config
from zk0.config.machine import (
    CheckpointConfig,
    DockerConfig,
    ExecutorConfig,
    LoggingConfig,
    MemoryConfig,
    ReportConfig,
    TrackingConfig,
)
from zk0.config.part import NAME_PATTERN, Name, size_in_bytes
from zk0.config.paths import ASSET_PREFIX, resolve_path
from zk0.config.recordings import ClientConfig, DataConfig, DatasetConfig, EnvironmentConfig, EvaluationConfig
from zk0.config.run import CONTINUE_PATTERN, LATER_KEYS, LATEST, OF_THE_NODE, SUPERLINK, WITHOUT_EFFECT, RunConfig
from zk0.config.trust import AdmissionConfig, PrivacyConfig, least_updates

__all__ = [
    "ASSET_PREFIX",
    "CONTINUE_PATTERN",
    "LATER_KEYS",
    "LATEST",
    "NAME_PATTERN",
    "OF_THE_NODE",
    "SCHEDULER_KEYS",
    "STRATEGY_KEYS",
    "SUPERLINK",
    "WITHOUT_EFFECT",
    "AdaptiveConfig",
    "AdmissionConfig",
    "CheckpointConfig",
    "ClientConfig",
    "DataConfig",
    "DatasetConfig",
    "DockerConfig",
    "EnvironmentConfig",
    "EvaluationConfig",
    "ExecutorConfig",
    "FederationConfig",
    "LoggingConfig",
    "MemoryConfig",
    "Name",
    "PeftConfig",
    "PolicyConfig",
    "PrivacyConfig",
    "ReportConfig",
    "RunConfig",
    "TrackingConfig",
    "TrainingConfig",
    "least_updates",
    "load_config",
    "resolve_path",
    "shipped_configs",
    "size_in_bytes",
    "validate_config",
]
