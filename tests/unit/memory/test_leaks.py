"""Growth over rounds: synthetic series of every shape, and a process that really grows."""

import os
import random
import subprocess
import sys

import psutil
import pytest
from loguru import logger

from zk0.memory import leaks

MIB = 2**20
LEVEL = 300 * MIB


def noisy(per_round, rounds=30, noise=0.002, seed=0):
    """Sizes of so many rounds: a level, a slope in bytes, and noise as a share of the level."""
    draw = random.Random(seed)
    return [int(LEVEL + index * per_round + draw.gauss(0, noise * LEVEL)) for index in range(rounds)]


def line(server_round, rss, pid=1, clients=(), capacity=2**30):
    return {
        "server_round": server_round,
        "orchestrator": {"pid": pid, "rss_bytes": rss, "capacity_bytes": capacity},
        "train": {name: {"peak_ram_bytes": size} for name, size in clients},
    }


def test_a_steady_leak_is_found_with_its_pace():
    growth = leaks.find("x", noisy(4 * MIB))
    assert growth.per_round == pytest.approx(4 * MIB, rel=0.15)


@pytest.mark.parametrize("seed", range(20))
def test_noise_without_a_trend_is_no_leak(seed):
    assert leaks.find("x", noisy(0, noise=0.03, seed=seed)) is None


def test_a_single_jump_or_an_odd_round_is_no_leak():
    assert leaks.find("x", [LEVEL] * 25 + [2 * LEVEL] * 5) is None
    spiky = [LEVEL] * 30
    spiky[-3] = 5 * LEVEL
    assert leaks.find("x", spiky) is None


def test_an_odd_round_does_not_hide_a_leak():
    series = noisy(4 * MIB)
    series[-4] = 10 * MIB
    assert leaks.find("x", series).per_round == pytest.approx(4 * MIB, rel=0.3)


def test_growth_that_has_ended_and_growth_too_small_are_none():
    assert leaks.find("x", [LEVEL + index * 10 * MIB for index in range(15)] + [LEVEL + 150 * MIB] * 15) is None
    assert leaks.find("x", noisy(MIB // 10, noise=0)) is None


def test_with_few_rounds_nothing_is_said():
    assert leaks.find("x", noisy(50 * MIB, rounds=9)) is None


def test_it_says_when_the_limit_is_reached():
    growth = leaks.find("x", [LEVEL + index * 10 * MIB for index in range(10)], limit=LEVEL + 190 * MIB)
    assert growth.rounds_left == 10
    assert str(growth) == (
        "x grows by 10.0 MiB a round over the last 10 rounds, to 0.38 GiB; at this pace 0.48 GiB are full in 10 rounds"
    )


def test_the_orchestrator_is_watched_as_one_process():
    """A new process begins anew: the rise from the old one's level to its own is no growth."""
    rounds = [line(index, LEVEL, pid=1) for index in range(8)] + [
        line(index, 2 * LEVEL, pid=2) for index in range(8, 16)
    ]
    assert leaks.find_all(rounds) == []


def test_clients_are_told_apart():
    rounds = [
        line(index, LEVEL, clients=[("still", LEVEL), ("grows", LEVEL + index * 10 * MIB)]) for index in range(12)
    ]
    assert [growth.who for growth in leaks.find_all(rounds)] == ["client 'grows'"]


def test_a_client_is_set_against_its_own_capacity():
    rounds = [line(index, LEVEL + index * 10 * MIB, capacity=24 * 2**30) for index in range(12)]
    sizes = [LEVEL + index * 10 * MIB for index in range(12)]
    for entry, size in zip(rounds, sizes, strict=True):
        entry["train"]["boxed"] = {"peak_ram_bytes": size, "ram_capacity_bytes": 2**29}
        entry["train"]["unknown"] = {"peak_ram_bytes": size}
    orchestrator, boxed, unknown = leaks.find_all(rounds)
    assert (orchestrator.limit, boxed.limit, unknown.limit) == (24 * 2**30, 2**29, None)
    assert boxed.rounds_left == (2**29 - sizes[-1]) // (10 * MIB)
    assert "0.50 GiB are full in 10 rounds" in str(boxed)


def test_it_is_said_once():
    said: list[str] = []
    sink = logger.add(said.append, level="WARNING", format="{message}")
    rounds = [line(index, LEVEL + index * 10 * MIB) for index in range(14)]
    for end in range(1, len(rounds) + 1):
        leaks.warn(rounds[:end])
    logger.remove(sink)
    assert len(said) == 1
    assert "memory: the orchestrator grows by 10.0 MiB a round" in said[0]


def test_rounds_from_before_there_was_a_sampler_do_no_harm():
    assert leaks.find_all([{"server_round": 0, "orchestrator": None}, {"server_round": 1}]) == []
    assert leaks.find_all([]) == []


GROW = """
import sys
held = []
for _ in sys.stdin:
    if sys.argv[1] == "leak":
        held.append(bytearray(b"x") * (2 << 20))
    else:
        bytearray(b"x") * (2 << 20)
    print("done", flush=True)
"""


@pytest.mark.parametrize(("kind", "grows"), [("leak", True), ("sound", False)])
def test_a_process_that_really_grows(kind, grows):
    command = [sys.executable, "-c", GROW, kind]
    sizes = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(os.environ)) as process:
        for _ in range(15):
            process.stdin.write(b"\n")
            process.stdin.flush()
            assert process.stdout.readline() == b"done\n"
            sizes.append(psutil.Process(process.pid).memory_info().rss)
        process.stdin.close()
    found = leaks.find(kind, sizes)
    assert (found is not None) is grows
    if found is not None:
        assert found.per_round == pytest.approx(2 * MIB, rel=0.2)
