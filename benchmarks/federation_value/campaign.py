"""All ways to train, one after the other in each of some processes."""

import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed

from benchmarks.federation_value.plan import Arm, Options, all_arms
from benchmarks.federation_value.verdict import FEDERATED, POOLED, Scores, Verdict
from zk0.sim import ZONES


def compare(options: Options, processes: int) -> Verdict:
    """Record, train every way and let it act, in so many processes."""
    started = time.monotonic()
    scores: dict[str, Scores] = {}
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    with ProcessPoolExecutor(processes, context, _set_up) as pool:
        for recorded in as_completed([pool.submit(_record, zone, options) for zone in ZONES]):
            print(f"{time.monotonic() - started:5.0f} s: recorded {recorded.result()}", flush=True)
        for trained in as_completed([pool.submit(_train_and_act, arm, options) for arm in all_arms()]):
            name, by_zone = trained.result()
            scores[name] = by_zone
            figures = ", ".join(f"{zone} {success.rate:.0%}" for zone, success in by_zone.items())
            print(f"{time.monotonic() - started:5.0f} s: {name}: {figures}", flush=True)
    return Verdict({zone: scores[zone] for zone in ZONES}, pooled=scores[POOLED], federated=scores[FEDERATED])


def _set_up() -> None:
    """One torch thread in each process, and LeRobot's progress bars and logs kept off the terminal."""
    import logging

    import torch
    from loguru import logger

    torch.set_num_threads(1)
    logger.remove()
    logging.disable(logging.WARNING)
    descriptor = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # what goes wrong comes back as an exception
        os.dup2(descriptor, stream)
    os.close(descriptor)


def _record(zone: str, options: Options) -> str:
    from benchmarks.federation_value.arms import record_zone

    record_zone(zone, options)
    return zone


def _train_and_act(arm: Arm, options: Options) -> tuple[str, Scores]:
    from benchmarks.federation_value.arms import Federation

    federation = Federation(arm, options)
    federation.train()
    return arm.name, {zone: federation.success(zone, options.seeds) for zone in ZONES}
