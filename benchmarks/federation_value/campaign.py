"""All ways to train, one after the other in each of some processes; what is done is not done again."""

import dataclasses
import multiprocessing
import os
import shutil
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from benchmarks.federation_value.benches import BENCHES
from benchmarks.federation_value.plan import FEDERATED, POOLED, ROUND_0, Arm, Options, all_arms
from benchmarks.federation_value.verdict import Scores, Verdict
from zk0.files.atomic import read_json, write_json
from zk0.metrics.success import Success


def compare(options: Options, processes: int) -> Verdict:
    """Record, train every way and let it act, in so many processes."""
    started = time.monotonic()
    bench = BENCHES[options.bench]
    scores: dict[str, Scores] = {}
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    # SVT-AV1, which encodes the videos, leaves processes of root in real time: none that recorded is to train.
    with ProcessPoolExecutor(processes, context, _set_up) as pool:
        for recorded in as_completed([pool.submit(_record, setting, options) for setting in bench.settings]):
            print(f"{time.monotonic() - started:5.0f} s: recorded {recorded.result()}", flush=True)
    with ProcessPoolExecutor(processes, context, _set_up) as pool:
        arms = all_arms(bench.settings, bench.begins_trained)
        for trained in as_completed([pool.submit(_train_and_act, arm, options) for arm in arms]):
            name, scores[name] = trained.result()
            figures = ", ".join(f"{setting} {success.rate:.0%}" for setting, success in scores[name].items())
            print(f"{time.monotonic() - started:5.0f} s: {name}: {figures}", flush=True)
    return Verdict(
        {setting: scores[setting] for setting in bench.settings},
        pooled=scores[POOLED],
        federated=scores[FEDERATED],
        round_0=scores.get(ROUND_0),
        wanted_of_pooled=bench.wanted_of_pooled,
    )


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


def _record(setting: str, options: Options) -> str:
    from benchmarks.federation_value.arms import record_setting

    record_setting(setting, options)
    return setting


def _train_and_act(arm: Arm, options: Options) -> tuple[str, Scores]:
    """Of an arm that was finished in the same work folder with the same options, the scores are read."""
    from benchmarks.federation_value.arms import Federation

    asked = {field: str(value) for field, value in dataclasses.asdict(options).items()}
    file = options.work / "scores" / f"{arm.name}.json"
    if (found := _read(file, asked)) is None:
        shutil.rmtree(options.work / "runs" / arm.name, ignore_errors=True)  # of one that was killed
        federation = Federation(arm, options)
        if arm.clients:
            federation.train()
        found = {setting: federation.success(setting, options.seeds) for setting in BENCHES[options.bench].settings}
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, {"options": asked, "scores": {name: dataclasses.astuple(s) for name, s in found.items()}})
    return arm.name, found


def _read(file: Path, asked: dict[str, str]) -> Scores | None:
    """The scores of an arm, if these options gave them."""
    if not file.exists() or (written := read_json(file))["options"] != asked:
        return None
    return {setting: Success(*counts) for setting, counts in written["scores"].items()}
