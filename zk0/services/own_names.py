"""Our packages beside `zk0` under names that others use too: ours are taken, whatever else has them."""

import importlib.util
import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
OUTER = ("tasks", "flows")
"""Our packages beside `zk0`, under names that others use too."""


def claim_our_names() -> None:
    """Load our packages from beside `zk0`, whatever else has their names, and keep our children from such files.

    A user's `tasks.py` or `flows/` may lie in the working directory, on PYTHONPATH, or be installed. Whoever starts
    `python -c` or `python -m`, as multiprocessing and Prefect do, looks into the working directory first, for every
    module that there is; not under PYTHONSAFEPATH.
    """
    os.environ["PYTHONSAFEPATH"] = "1"
    for name in OUTER:
        folder = ROOT / name
        spec = importlib.util.spec_from_file_location(
            name, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        assert spec is not None
        assert spec.loader is not None
        if getattr(sys.modules.get(name), "__file__", None) != spec.origin:
            sys.modules[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(sys.modules[name])
