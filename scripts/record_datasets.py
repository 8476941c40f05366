"""Records the example datasets: four clients and the unseen setting, with seeds that the base never saw.

Usage: python scripts/record_datasets.py --out zk0/assets/datasets
"""

from __future__ import annotations

import argparse
from pathlib import Path

from scripts.asset_tools import ASSETS, folder_digest, folder_size
from zk0.sim import CLIENTS, UNSEEN
from zk0.sim.record import record

CLIENT_EPISODES, UNSEEN_EPISODES = 30, 12
FIRST_SEED, SEED_STEP = 20_000, 1_000  # the base's own: 0-20,000; its evaluation: from 90,000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ASSETS / "datasets")
    parser.add_argument("--only", nargs="*", help="record only these settings")
    args = parser.parse_args()
    for index, setting in enumerate((*CLIENTS, UNSEEN)):
        if args.only and setting not in args.only:
            continue
        episodes = UNSEEN_EPISODES if setting == UNSEEN else CLIENT_EPISODES
        root = record(setting, episodes, args.out / setting, FIRST_SEED + index * SEED_STEP)
        print(f"{setting}: {episodes} episodes, {folder_size(root)} bytes, sha256 {folder_digest(root)}", flush=True)


if __name__ == "__main__":
    main()
