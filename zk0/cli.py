"""The one door: `zk0 run`, `serve`, `status` and the rest. Light to import; the work is behind the commands."""

import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click
import typer
from rich.console import Console
from rich.text import Text

from zk0.commands.clean import clean
from zk0.commands.common import (
    ConfigArgument,
    JsonOption,
    NameArgument,
    OutputsOption,
    Quietly,
    SetOption,
    StrictOption,
    console,
    echo,
    notes,
    open_run,
    print_version,
)
from zk0.commands.doctor import doctor
from zk0.commands.examples import EXAMPLES
from zk0.commands.export import export
from zk0.commands.init import init
from zk0.commands.push import push
from zk0.commands.record import record
from zk0.commands.report import report
from zk0.errors import AbsentClientsError, DatasetError, Zk0Error
from zk0.link.commands import app as link_app
from zk0.node.commands import app as node_app
from zk0.services.own_names import claim_our_names

if TYPE_CHECKING:
    from collections.abc import Callable

    from zk0.config import RunConfig
    from zk0.federation.start import Check
    from zk0.runs.store import RunStore

INTERRUPTED = 130

app = typer.Typer(cls=Quietly, no_args_is_help=True, pretty_exceptions_enable=False)
app.add_typer(link_app, name="link", help="The coordinator's side of a federation: keys, SuperLink, gate, nodes.")
app.add_typer(node_app, name="node", help="An owner's side of a federation: key, rules, checks, the node itself.")

HistoryOption = Annotated[
    float, typer.Option(help="Days that Prefect knows of ended runs; 0: for ever.", min=0, envvar="ZK0_HISTORY_DAYS")
]


@app.callback()
def zk0(
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Fine-tune one robot policy together, without handing out a recording.

    Start with `zk0 run`, which needs nothing; with your own recordings: `zk0 init`, `zk0 check-data`, `zk0 run`.
    """


@app.command(epilog=EXAMPLES["run"])
def run(
    config: ConfigArgument = None,
    name: Annotated[str | None, typer.Option(help="The run's name; an unfinished run of it goes on.")] = None,
    overrides: SetOption = None,
    strict: StrictOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a federation: a new run, or an unfinished one of the same config from where it stopped."""
    from zk0.config import load_config

    wanted = load_config(config, overrides or [])

    def begun(check: "Check") -> "RunStore":
        from zk0.federation.before_run import strictly
        from zk0.federation.start import begin, stem_of

        check = strictly(check) if strict else check
        return begin(wanted, name, stem_of(config), check=check, going_on=_going_on)

    _train(wanted, begun, as_json=as_json)


@app.command(epilog=EXAMPLES["serve"])
def serve(
    config: ConfigArgument = None,
    host: Annotated[str, typer.Option(help="Address that the Prefect server listens on.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="Its port; Prefect's own, 4200, when left out.")] = None,
    auth: Annotated[str | None, typer.Option(help="user:password that the server asks for.", envvar="ZK0_AUTH")] = None,
    outputs: OutputsOption = Path("outputs"),
    notify: Annotated[str | None, typer.Option(help="A Prefect notification block: slack-webhook/team.")] = None,
    history: HistoryOption = 30.0,
) -> None:
    """Watch over runs: Prefect server, worker, schedules, and recovery of what was killed; until Ctrl-C."""
    from zk0.config import load_config

    if config is not None:
        load_config(config)  # a typing error shows here, not at two in the morning
    from flows.settings import set_up_serving

    runs = set_up_serving(host, port, auth, outputs)
    from flows.serve import Options, Service

    Service(Options(config, runs, host, notify, history), echo).run()


@app.command(epilog=EXAMPLES["resume"])
def resume(name: NameArgument = None, outputs: OutputsOption = Path("outputs"), as_json: JsonOption = False) -> None:
    """Go on with an unfinished run from its last committed round."""
    store = open_run(outputs, name)

    def again(check: "Check") -> "RunStore":
        from zk0.federation.start import check_again

        check_again(store, check)
        return store

    _train(store.config, again, as_json=as_json)


@app.command(epilog=EXAMPLES["status"])
def status(
    name: NameArgument = None,
    outputs: OutputsOption = Path("outputs"),
    as_json: JsonOption = False,
) -> None:
    """Show how far a run is, from its directory alone."""
    from zk0.report.terminal import closing_view, status_view
    from zk0.runs.progress import status_json

    store = open_run(outputs, name)
    if as_json:
        console.print_json(data=status_json(store.folder))
        return
    console.print(status_view(store.folder))
    if store.committed_rounds():
        console.print(closing_view(store.folder))


@app.command(epilog=EXAMPLES["compare"])
def compare(name: NameArgument = None, outputs: OutputsOption = Path("outputs"), as_json: JsonOption = False) -> None:
    """Train a finished run's clients alone, and all data pooled, with the same budget, and show them beside it."""
    from zk0.executors.process import ProcessExecutor
    from zk0.federation.comparison import compare as compare_run
    from zk0.logs.setup import setup_orchestrator
    from zk0.report.comparison import comparison_record, comparison_table, write_comparison

    store = open_run(outputs, name)
    notes.quiet = as_json or notes.quiet
    _warm_up(store.config)
    setup_orchestrator(store.folder, store.config.logging)
    found = compare_run(store, ProcessExecutor(store.config.executor), lambda arm: echo(f"{arm} ...", to=notes))
    chart = write_comparison(found, store.folder)
    if as_json:
        console.print_json(data=comparison_record(found))
        return
    console.print(comparison_table(found))
    echo(f"chart: {chart}")


for command in (report, export, push, record, doctor, init, clean):
    app.command(epilog=EXAMPLES[command.__name__])(command)


@app.command(name="check-data", epilog=EXAMPLES["check-data"])
def check_data(
    config: ConfigArgument = None,
    overrides: SetOption = None,
    fix_to: Annotated[
        Path | None,
        typer.Option(help="Write copies to FIX_TO/<name>: converted, without doubled frames; and check those."),
    ] = None,
    fresh: Annotated[bool, typer.Option(help="Look again at recordings that were found good before.")] = False,
    strict: StrictOption = False,
    as_json: JsonOption = False,
) -> None:
    """Check every frame of a config's datasets, against each other and the base policy, and train nothing."""
    from zk0.config import load_config
    from zk0.federation.before_run import check, check_data, strictly
    from zk0.report.checking import checking
    from zk0.report.findings import findings_table

    wanted = load_config(config, overrides or [])
    notes.quiet = as_json or notes.quiet
    with checking(notes) as watch:
        found = check_data(wanted, fix_to, fresh=fresh, watch=watch)
    if as_json:
        console.print_json(data=[finding.model_dump() for finding in found.findings])
    else:
        console.print(findings_table(found))
    if errors := found.of("error"):
        at = ", ".join(dict.fromkeys(finding.dataset for finding in errors))
        raise DatasetError(f"errors in the table: {len(errors)} ({at}); training would fail on them or learn wrongly")
    if strict and (warnings := found.of("warning")):
        at = ", ".join(dict.fromkeys(finding.dataset for finding in warnings))
        raise DatasetError(f"--strict: {len(warnings)} warnings in the table ({at}) are errors")
    if fix_to is None:  # the copies are of no config yet
        with checking(notes) as watch:
            wanted_checks = partial(check, watch=watch)
            (strictly(wanted_checks) if strict else wanted_checks)(wanted)


@app.command(hidden=True, context_settings={"ignore_unknown_options": True})
def module(name: str, arguments: Annotated[list[str] | None, typer.Argument()] = None) -> None:
    """`python -m NAME ARGUMENTS` with our own packages: how the service starts Prefect's processes."""
    from flows.process import run_module

    run_module(name, arguments or [])


def main() -> None:
    """Run the command line; every error of ours is one message and an exit code, never a traceback."""
    claim_our_names()
    try:
        code = app(standalone_mode=False)  # typer gives the code of an exit, such as 130 for Ctrl-C, as a result
    except Zk0Error as error:
        from zk0.executors.call import kept_trace

        said = Console(stderr=True, soft_wrap=True)
        said.print(Text.assemble(("error:", "bold red"), f" {error}"))
        if (trace := kept_trace(error)) is not None:
            said.print(Text(f"its traceback: {trace}"))
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    if code == INTERRUPTED:
        Console(stderr=True).print("interrupted: the same command goes on from where it stopped", highlight=False)
    sys.exit(code)


def _train(config: "RunConfig", prepare: "Callable[[Check], RunStore]", *, as_json: bool) -> None:
    """Check everything, bring up the workers and the server meanwhile, and run the flow under the live view."""
    notes.quiet = as_json or notes.quiet
    _warm_up(config)
    from flows.settings import set_defaults

    set_defaults()
    from flows.server import ensure_server, ui_url

    server = ensure_server()
    import flows.federated_training  # noqa: F401 - while the server starts
    from zk0.federation import before_run
    from zk0.federation.start import advancing
    from zk0.layout import FINAL
    from zk0.logs.setup import complete
    from zk0.report.checking import checking
    from zk0.report.terminal import closing_view
    from zk0.runs.progress import status_json

    with ExitStack() as held:
        try:
            with checking(notes) as watch:
                store = prepare(partial(before_run.check, watch=watch))
            held.enter_context(advancing(store))  # says now if another process has the run
        except Zk0Error:
            server.discard()
            raise
        api = server.wait()
        echo("run ", (store.info.name, "bold"), f": {store.folder}\nPrefect UI: {ui_url(api)}", to=notes)
        absent = _flow(store, api, ui_url(api))
    complete()
    if as_json:
        console.print_json(data=status_json(store.folder))
    else:
        console.print(closing_view(store.folder))
        echo(f"final policy: {store.folder / FINAL}")
    if absent is not None:
        raise absent


def _flow(store: "RunStore", api: str, pages: str) -> Zk0Error | None:
    """Run the flow under the live view; gives what is to be said at the very end, after what came of the others."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.federated_training import federated_training
    from flows.patience import again, kept_up
    from flows.will import ENDINGS
    from zk0.errors import EndedError
    from zk0.report.live import LiveView

    try:
        with temporary_settings({PREFECT_API_URL: api}), kept_up(api), LiveView(store.folder, pages, notes):
            again(federated_training, lambda: store.stopped is not None)(str(store.folder))
    except KeyboardInterrupt:
        store.mark_stopped()
        raise
    except AbsentClientsError as error:
        return error
    except ENDINGS as error:
        resume = f"zk0 resume {store.info.name}"
        raise EndedError(f"run {store.info.name!r} was {error}; it goes on by: {resume}") from error
    return None


def _warm_up(config: "RunConfig") -> None:
    """The workers' imports take longest: start them before our own."""
    from zk0.executors.process import ProcessExecutor

    ProcessExecutor(config.executor).warm_up()


def _going_on(store: "RunStore") -> None:
    echo(f"going on with the unfinished run {store.info.name!r} (--name starts another)", to=notes)


if __name__ == "__main__":
    if not sys.flags.safe_path:  # `python -m` looks into the working directory first: last, its files hide no module
        sys.path.append(sys.path.pop(0))
    main()
