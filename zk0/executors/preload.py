"""What every worker needs, imported at once; for the fork server and for containers, never for the orchestrator.

Without garbage collection meanwhile, which would walk through all objects again and again and find nothing: a sixth of
the time. What is there then stays out of later collections (`gc.freeze`): forked workers go on sharing its memory.
"""

import gc
import importlib
from contextlib import suppress

gc.disable()
for name in ("zk0.client.run", "zk0.logs.setup", "zk0.memory.sampler", "zk0.preflight.checks", "zk0.preflight.probe"):
    with suppress(
        Exception
    ):  # it would end the fork server without a word; the work that needs it meets it again, and tells
        importlib.import_module(name)
gc.freeze()
gc.enable()
