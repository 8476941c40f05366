"""The command: kills, looks whether every run ends as an undisturbed one, and writes the table."""

import argparse
import signal
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from benchmarks.chaos import commands, report
from benchmarks.chaos.campaign import CONFIGS, WAYS, Campaign, Line, Lost, story
from benchmarks.chaos.plan import deck
from benchmarks.chaos.watch import be_prompt
from benchmarks.service import CommandLine

console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)


def main() -> int:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    be_prompt()  # a thread that waits for the interpreter's lock is as slow as its holder
    records = report.Records(options.log or options.folder / "chaos.jsonl", options.seed)
    of_commands = options.kills // 4 if options.commands is None else min(options.commands, options.kills)
    of_runs = options.kills - of_commands
    cards = records.remaining(deck(options.seed, of_runs))
    console.print(f"{len(cards)} kills in runs and {of_commands} of commands to do in {options.folder}")
    campaign = Campaign(options.folder, console.print)
    try:
        if cards:
            campaign.start()
        while cards or len(records.mine_of_runs) < min(options.runs, of_runs):
            number = len(records.mine_of_runs)
            run = attack(campaign, number, _deal(cards, number, options.runs), options.seed)
            records.add(run)
            cards = records.remaining(deck(options.seed, of_runs))
    finally:
        campaign.close()
    left = commands.deck(options.seed, of_commands)[len(records.mine) - len(records.mine_of_runs) :]
    if left:
        kill_commands(options.folder / "commands", left, options.seed + len(records.mine), records)
    console.print(report.tables(records))
    if options.out:
        report.write_section(options.out, report.markdown(records))
    return 0 if records.all_well else 1


def kill_commands(folder: Path, kinds: list[str], seed: int, records: report.Records) -> None:
    """Commands beside the runs, and their kills."""
    environment = CommandLine.apart(folder)
    attacked = commands.Commands(folder, environment, console.print)
    try:
        for run in attacked.attack(kinds, seed):
            records.add(run)
    finally:
        commands.close(environment)


def attack(campaign: Campaign, number: int, cards: list[tuple[str, str]], seed: int) -> dict[str, Any]:
    """One run and its kills; gives its record."""
    config, way = _kind(number)
    name = f"chaos-{seed}-{number:03d}"
    wanted = campaign.undisturbed(config)
    console.print(f"run {name} ({config}; {way}): {len(cards)} kills, digest {wanted['tensors'][:12]} wanted")
    started = time.monotonic()
    lines: list[Line] = []
    try:
        for line in campaign.run(name, config, way, cards, seed * 1000 + number):
            lines.append(line)
            aimed = "" if line.phase == line.aimed_at else f" (aimed at {line.aimed_at})"
            back = f", back after {line.back_s} s" if line.back_s is not None else ""
            console.print(f"  killed {line.victim} in round {line.server_round}: {line.phase}{aimed}{back}")
        problems = campaign.problems
    except Lost as error:
        problems = [str(error)]
        console.print(story(campaign, name), markup=False)
    seconds = round(time.monotonic() - started)
    console.print(
        f"  [{'red' if problems else 'green'}]{escape('; '.join(problems)) or 'as undisturbed'}[/], {seconds} s"
    )
    kills = [asdict(line) for line in lines]
    digest = wanted["tensors"]
    return {"run": name, "config": config, "way": way, "seconds": seconds, "digest": digest, "wrong": problems} | {
        "kills": kills
    }


def _kind(number: int) -> tuple[str, str]:
    """Config and way of starting of the nth run: three of five through the deployment."""
    names = list(CONFIGS)
    return names[number % 2], WAYS[max(0, number % 5 - 2)]


def _deal(cards: list[tuple[str, str]], done: int, runs: int) -> list[tuple[str, str]]:
    """The next run's share of the cards; a phase that its config does not have is left for another."""
    share = -(-len(cards) // max(1, runs - done))
    short = _kind(done)[0] == next(iter(CONFIGS))
    fitting = [card for card in cards if not (short and card[1] in ("commit: prune", "commit: stats.safetensors"))]
    return fitting[: min(share, 8)]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=10, help="how many; 0: only the table of --log")
    parser.add_argument("--commands", type=int, help="how many of them of commands beside a run; a quarter if left out")
    parser.add_argument("--runs", type=int, default=2, help="over how many runs at least")
    parser.add_argument("--seed", type=int, default=1, help="of victims, phases and moments")
    parser.add_argument("--out", type=Path, help="a Markdown file that gets the table as a section")
    parser.add_argument("--log", type=Path, help="JSON lines; an unfinished campaign of the same seed goes on from it")
    parser.add_argument("--folder", type=Path, help="where the runs lie; a new temporary folder when left out")
    options = parser.parse_args()
    options.folder = (options.folder or Path(tempfile.mkdtemp(prefix="zk0-chaos-"))).absolute()
    options.folder.mkdir(parents=True, exist_ok=True)
    return options


if __name__ == "__main__":
    sys.exit(main())
