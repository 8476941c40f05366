"""The same run with a process and with a container for each piece of work: the bytes, and the time.

`uv run python -m benchmarks.executors` runs the shipped default twice, with an image `zk0:latest` that is there, and
ends with PASS where every round's global tensors are the same. Another config, and `--set`, as for `zk0 run`.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

KINDS = ("process", "docker")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", nargs="?", default="sim")
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    options = parser.parse_args(arguments)
    digests = {}
    with tempfile.TemporaryDirectory(prefix="zk0-executors-") as scratch:
        outputs = Path(scratch) / "outputs"
        for kind in KINDS:
            seconds = run(options.config, [*options.overrides, f"executor.kind={kind}", f"outputs_dir={outputs}"], kind)
            digests[kind] = round_digests(outputs / kind)
            print(f"{kind:<8} {seconds:6.0f} s   {' '.join(digest[:12] for digest in digests[kind])}")
    same = len(set(digests.values())) == 1
    print("PASS: the same bytes in every round" if same else "FAIL: the bytes differ")
    return 0 if same else 1


def run(config: str, overrides: Sequence[str], name: str) -> float:
    """One run by the command line; gives its wall time in seconds."""
    command = [sys.executable, "-m", "zk0.cli", "run", config, "--name", name]
    for item in overrides:
        command += ["--set", item]
    started = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    subprocess.run(command, check=True, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return time.monotonic() - started


def round_digests(run_dir: Path) -> tuple[str, ...]:
    """SHA-256 of each round's global tensors."""
    files = sorted(run_dir.glob("rounds/*/global.safetensors"))
    return tuple(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)


if __name__ == "__main__":
    sys.exit(main())
