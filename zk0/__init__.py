"""zk0: federated fine-tuning of robot policies that survives anything. The core: nothing here knows of Prefect.

`zk0.run(config)` trains, `zk0.open_run(path)` reads what a run has left; docs/python.md.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zk0.api import LoadedPolicy as LoadedPolicy
    from zk0.api import Run as Run
    from zk0.api import open_run as open_run
    from zk0.api import run as run
    from zk0.config import RunConfig as RunConfig
    from zk0.config import load_config as load_config
    from zk0.errors import Zk0Error as Zk0Error

__version__ = version("zk0")

_HOMES = {
    "LoadedPolicy": "zk0.api",
    "Run": "zk0.api",
    "RunConfig": "zk0.config",
    "Zk0Error": "zk0.errors",
    "load_config": "zk0.config",
    "open_run": "zk0.api",
    "run": "zk0.api",
}
"""Public name -> its module, imported when it is first asked for: every worker imports this package."""

__all__ = ["LoadedPolicy", "Run", "RunConfig", "Zk0Error", "__version__", "load_config", "open_run", "run"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'zk0' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
