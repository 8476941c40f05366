"""zk0: federated fine-tuning of robot policies that survives anything. The core: nothing here knows of Prefect."""

from importlib.metadata import version

__version__ = version("zk0")
