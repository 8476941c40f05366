"""zk0: federated fine-tuning of robot policies. The one door; light to import, the work is behind the commands."""

import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click
import typer
from rich.console import Console

from zk0.errors import RunNameError, Zk0Error

if TYPE_CHECKING:
    from zk0.config import RunConfig
    from zk0.executors.process import ProcessExecutor
    from zk0.run_store import RunStore

INTERRUPTED = 130
LOG_BYTES = 100 * 2**20
"""Room for logs and metrics that must be free on the disk before a run starts, beside its tensors."""

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
console = Console()

ConfigArgument = Annotated[str | None, typer.Argument(help="A TOML file, or a shipped config: sim (default), so100.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Override one key: training.steps=20.")]
OutputsOption = Annotated[Path, typer.Option("--outputs", help="The folder of the runs.")]
NameArgument = Annotated[str | None, typer.Argument(help="The run; the newest when left out.")]


@app.command()
def run(
    config: ConfigArgument = None,
    name: Annotated[str | None, typer.Option(help="The run's name; an unfinished run of it goes on.")] = None,
    overrides: SetOption = None,
) -> None:
    """Train a federation: a new run, or an unfinished one of the same config from where it stopped."""
    from zk0.config import load_config

    _train(load_config(config, overrides or []), name, Path(config or "sim").stem)


@app.command()
def resume(name: NameArgument = None, outputs: OutputsOption = Path("outputs")) -> None:
    """Go on with an unfinished run from its last committed round."""
    store = _open(outputs, name)
    _train(store.config, store.info.name, "")


@app.command()
def status(
    name: NameArgument = None,
    outputs: OutputsOption = Path("outputs"),
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show how far a run is, from its directory alone."""
    from zk0.progress import status_json
    from zk0.view import status_view, summary_table

    store = _open(outputs, name)
    if as_json:
        console.print_json(data=status_json(store.folder))
        return
    console.print(status_view(store.folder))
    if store.committed_rounds():
        console.print(summary_table(store.folder))


@app.command()
def export(
    name: Annotated[str, typer.Argument(help="The run.")],
    out: Annotated[Path, typer.Option(help="The folder to write; must not exist.")],
    number: Annotated[int | None, typer.Option("--round", help="A committed round; the newest when left out.")] = None,
    merge: Annotated[bool, typer.Option(help="Merge the adapters into plain weights.")] = False,
    outputs: OutputsOption = Path("outputs"),
) -> None:
    """Write a round's policy as a LeRobot pretrained_model folder."""
    from tasks.checkpoint import export as write

    store = _open(outputs, name)
    committed = store.committed_rounds()
    if not committed or (number is not None and number not in committed):
        kept = ", ".join(map(str, committed)) or "none"
        raise RunNameError(f"--round {number}: run {name!r} has no such round; committed and kept: {kept}")
    if out.exists():
        raise RunNameError(f"--out {str(out)!r}: exists; choose a folder that does not")
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    console.print(f"written: {write(store, committed[-1] if number is None else number, out.absolute(), merge=merge)}")


@app.command(name="check-data")
def check_data(config: ConfigArgument = None, overrides: SetOption = None) -> None:
    """Check the datasets of a config against each other and the base policy, and train nothing."""
    from zk0.config import load_config
    from zk0.executors.worker import preflight

    settings = load_config(config, overrides or [])
    checked = _warm_executor(settings).call(preflight, settings)
    for dataset, count in checked.frames.items():
        console.print(f"{dataset}: {count} frames, fits the policy")


@app.command()
def record(
    setting: Annotated[str, typer.Argument(help="A setting of the simulator.")],
    out: Annotated[Path, typer.Option(help="The dataset's folder; must not exist.")],
    episodes: Annotated[int, typer.Option(help="Successful episodes to record.")] = 30,
    seed: Annotated[int, typer.Option(help="Seed of the first episode.")] = 0,
) -> None:
    """Record demonstrations of the scripted expert in the SO-101 simulator as a LeRobot dataset."""
    from zk0.errors import ConfigError
    from zk0.sim.record import record as write

    try:
        write(setting, episodes, out, seed)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    console.print(f"recorded: {out}")


def main() -> None:
    """Run the command line; every error of ours is one message and an exit code, never a traceback."""
    try:
        code = app(standalone_mode=False)  # typer gives the code of an exit, such as 130 for Ctrl-C, as a result
    except Zk0Error as error:
        Console(stderr=True, soft_wrap=True).print(f"[bold red]error:[/] {_escaped(error)}", highlight=False)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    if code == INTERRUPTED:
        Console(stderr=True).print("interrupted: the same command goes on from where it stopped", highlight=False)
    sys.exit(code)


def _train(config: "RunConfig", name: str | None, stem: str) -> None:
    """Check everything, bring up the workers and the server meanwhile, and run the flow under the live view."""
    executor = _warm_executor(config)
    import tasks  # noqa: F401, I001 - sets Prefect's defaults, before Prefect is imported
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.server import ensure_server, ui_url

    server = ensure_server()
    from flows.federated_training import federated_training
    from zk0 import logs
    from zk0.executors.worker import preflight
    from zk0.run_store import RunStore, check_free_space
    from zk0.view import LiveView, summary_table

    try:
        checked = executor.call(preflight, config)
        config = checked.config
        name = name or _unfinished(config) or _new_name(stem)
        # Each kept round, the base, the best and the one under way: global tensors and every client's update;
        # of each fit under way two checkpoints: the tensors and their two moments.
        sets = (config.checkpoint.keep + 3) * (1 + len(config.clients)) + 6 * config.executor.max_parallel
        check_free_space(config.outputs_dir, sets * checked.exchanged_bytes + LOG_BYTES)
        store = RunStore.create_or_open(config, name)
    except Zk0Error:
        server.discard()
        raise
    api = server.wait()
    logs.setup_orchestrator(store.folder, config.logging)
    console.print(f"run [bold]{name}[/]: {store.folder}\nPrefect UI: {ui_url(api)}", highlight=False)
    with temporary_settings({PREFECT_API_URL: api}), LiveView(store.folder, ui_url(api), console):
        final = federated_training(config, name)
    logs.complete()
    console.print(summary_table(store.folder))
    console.print(f"final policy: {final}", highlight=False)


def _warm_executor(config: "RunConfig") -> "ProcessExecutor":
    """The workers' imports take longest: start them before our own."""
    from zk0.executors.process import ProcessExecutor

    executor = ProcessExecutor(config.executor)
    executor.warm_up()
    return executor


def _open(outputs: Path, name: str | None) -> "RunStore":
    from zk0.run_store import RunStore

    if name is not None:
        return RunStore.open(outputs, name)
    runs = RunStore.list_runs(outputs)
    if not runs:
        raise RunNameError(f"no run in {outputs.absolute()}; start one by `zk0 run`, or name the folder by --outputs")
    return runs[0]


def _unfinished(config: "RunConfig") -> str | None:
    """The newest run of just this config that is not finished and that nobody advances: `zk0 run` goes on with it."""
    from zk0.run_store import RunStore

    for store in RunStore.list_runs(config.outputs_dir):
        finished = config.federation.num_rounds in store.committed_rounds() and (store.folder / "final").is_dir()
        if store.info.config_digest == config.digest and not finished and store.holder() is None:
            console.print(f"going on with the unfinished run {store.info.name!r} (--name starts another)")
            return store.info.name
    return None


def _new_name(stem: str) -> str:
    plain = "".join(letter if letter.isalnum() else "-" for letter in stem.lower()).strip("-")
    return f"{plain or 'run'}-{datetime.now().astimezone():%Y%m%d-%H%M%S}"


def _escaped(error: Exception) -> str:
    from rich.markup import escape

    return escape(str(error))


if __name__ == "__main__":
    main()
