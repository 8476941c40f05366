"""A round's policy as a LeRobot folder."""

from pathlib import Path

from zk0.client.inputs import dataset_of, load_global
from zk0.config import RunConfig
from zk0.data.datasets import open_metadata
from zk0.learning.policy import save_pretrained
from zk0.work.records import ClientTask


def save_policy(task: ClientTask, config: RunConfig, folder: Path, *, merge: bool, own: bool = False) -> None:
    """Write the global policy of a round as a LeRobot `pretrained_model` folder.

    Args:
        task: an `evaluate` task of the round, which names its tensors and statistics.
        config: the run's config.
        folder: where to write; created.
        merge: merge the adapters into the weights, so that the folder needs neither PEFT nor the base.
        own: for the task's client alone: with its own statistics, where the config lets it use them.
    """
    dataset = dataset_of(config, task.client)
    built, preprocessor, postprocessor = load_global(task, config, dataset, open_metadata(dataset), own=own)
    if merge and config.peft.enabled:
        built = built.merge_and_unload()
        built.config.use_peft = False
    save_pretrained(built, preprocessor, postprocessor, folder)
