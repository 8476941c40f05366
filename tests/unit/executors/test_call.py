"""zk0.executors.call: whatever is raised in another process arrives as an error of ours, in its own words, once."""

import errno
import json
import os
import re
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import httpx
import pytest
from draccus.utils import DecodingError, ParsingError

from tests.unit.executors.test_process import LightExecutor
from zk0 import errors
from zk0.config import ExecutorConfig
from zk0.errors import (
    BadInputError,
    ClientError,
    DatasetError,
    HopelessError,
    PassingError,
    PolicyError,
    QuarantineError,
    StorageError,
    UnforeseenError,
    UnforeseenInputError,
    Zk0Error,
    during,
)
from zk0.executors.call import RemoteTraceback, error_of, of_input
from zk0.files import atomic
from zk0.work.told import tell


class Demanding(Exception):  # noqa: N818
    """As LeRobot's: cannot be made again of what it says."""

    def __init__(self, repo_id: str, version: SimpleNamespace) -> None:
        super().__init__(f"{repo_id} is in {version.major}.1 format.\n\nConvert it:\n```\npython -m convert\n```")


class Mute(Exception):  # noqa: N818
    def __str__(self) -> str:
        raise ValueError("no words")


class OddDatasetError(DatasetError):
    """Of a plug-in: its constructor wants other arguments."""

    def __init__(self, name: str, row: int) -> None:
        super().__init__(f"dataset {name!r}: row {row} is odd; mend it")


class Sealed:
    def __reduce__(self) -> NoReturn:
        raise TypeError("cannot pickle a Sealed")


class Unopened:
    """Is sent, and cannot be made again where it arrives."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[()]]:
        return demanding, ()


def demanding() -> NoReturn:
    raise Demanding("lab/arm", SimpleNamespace(major=2))


def mute() -> NoReturn:
    raise Mute("made of this")


def wrapped() -> Any:
    features: dict[str, Any] = {}
    try:
        return features["observation.state"]
    except KeyError as error:
        raise ValueError("bad features") from error


def group() -> NoReturn:
    raise ExceptionGroup("two", [IndexError("list index out of range"), TypeError("not iterable")])


def our_group() -> NoReturn:
    raise ExceptionGroup("two", [DatasetError("dataset 'a': x"), PolicyError("policy.path: y")])


def helper() -> NoReturn:
    words = "Caught KeyError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
    raise RuntimeError(words + '  File "x.py", line 3, in f\nKeyError: 17')


def warned() -> None:
    warnings.simplefilter("error")
    warnings.warn("deprecated for ever", DeprecationWarning, stacklevel=1)


def noted() -> NoReturn:
    with during("client 'kitchen'"), during("timestamps"):
        raise KeyError("frame_index")


def surrogates() -> NoReturn:
    raise ValueError("file \udcff\x1b[31m is odd")


def deep() -> NoReturn:
    deep()
    raise AssertionError


def raises(error: BaseException) -> NoReturn:
    raise error


def leaves(code: int) -> NoReturn:
    os._exit(code)


def killed(number: int, log: Path) -> None:
    with log.open("a") as file:
        file.write("called\n")
    os.kill(os.getpid(), number)
    time.sleep(30)


def crashes() -> None:
    import ctypes

    ctypes.string_at(0)


def executor() -> LightExecutor:
    return LightExecutor(ExecutorConfig())


def told(function: Callable[..., Any], *arguments: Any) -> Zk0Error:
    """As it would arrive, without the process between."""
    try:
        function(*arguments)
    except BaseException as error:  # noqa: BLE001 - as the door has it
        return error_of(tell(error), of_input=False)
    raise AssertionError


PLACE = r"\(in tests/unit/executors/test_call\.py:\d+\)"


@pytest.mark.parametrize(
    ("function", "arguments", "words"),
    [
        (demanding, (), rf"^Demanding: lab/arm is in 2\.1 format\. Convert it: ``` python -m convert ``` {PLACE}$"),
        (mute, (), rf"^Mute: made of this {PLACE}$"),
        (raises, (Mute(),), "^Mute: its text cannot be told, for that raises ValueError"),
        (wrapped, (), r"^ValueError: bad features, from KeyError: 'observation.state' \("),
        (group, (), r"^ExceptionGroup: two \(2 sub-.*IndexError: list index out of range; TypeError: not iterable"),
        (helper, (), r"^RuntimeError: Caught KeyError in DataLoader worker process 0. KeyError: 17 \("),
        (warned, (), "^DeprecationWarning: deprecated for ever"),
        (noted, (), r"^client 'kitchen': timestamps: KeyError: 'frame_index' \("),
        (surrogates, (), r"^ValueError: file \?\?\[31m is odd \("),
        (deep, (), "^RecursionError: maximum recursion depth exceeded"),
        (sys.exit, ("usage: lerobot",), r"^SystemExit: usage: lerobot \(in tests/"),
        (raises, (SystemExit(2),), "^SystemExit: 2"),
        (raises, (NotImplementedError("Contact the maintainer"),), "^NotImplementedError: Contact the maintainer"),
        (raises, (RuntimeError("size of tensor a (7) must match"),), "^RuntimeError: size of tensor a"),
        (raises, (KeyError(),), rf"^KeyError {PLACE}$"),
        (raises, (DecodingError(["policy", "n_obs"], "no such field"),), "^DecodingError: `policy.n_obs`: no such fi"),
        (raises, (ParsingError("not parsed"),), "^ParsingError: not parsed"),
        (raises, (ModuleNotFoundError("No module named 'diffusers'"),), "^ModuleNotFoundError: No module named 'diff"),
        (raises, (GeneratorExit("odd"),), "^GeneratorExit: odd"),
        (raises, (ValueError("x" * 10_000),), rf"^ValueError: x{{1000,1990}} {PLACE}$"),
        (json.loads, ("{",), r"^JSONDecodeError: Expecting property name.*\(in tests/unit/executors/test_call\.py"),
    ],
)
def test_a_librarys_error_is_told_in_its_own_words(
    function: Callable[..., Any], arguments: tuple[Any, ...], words: str
) -> None:
    error = told(function, *arguments)
    assert re.search(words, str(error)), str(error)
    assert isinstance(error, UnforeseenError)
    assert "memory" not in str(error)


@pytest.mark.parametrize(
    ("function", "arguments", "words"),
    [
        (
            demanding,
            (),
            r"^Demanding: lab/arm .* \(in tests/unit/executors/test_call\.py:\d+, called at zk0/executors/call",
        ),
        (mute, (), "^Mute: made of this"),
        (sys.exit, (2,), r"^SystemExit: 2 \(at zk0/executors/call\.py"),
        (Sealed, (), "^the result of Sealed cannot be handed over: TypeError: cannot pickle a Sealed"),
        (Unopened, (), r"^the result of Unopened cannot be handed over: Demanding: lab/arm is in 2\.1"),
    ],
)
def test_a_librarys_error_arrives_from_another_process(
    function: Callable[..., Any], arguments: tuple[Any, ...], words: str
) -> None:
    with pytest.raises(UnforeseenError) as caught:
        executor().call(function, *arguments)
    assert re.search(words, str(caught.value)), str(caught.value)
    assert isinstance(caught.value.__cause__, RemoteTraceback)
    assert "Traceback (most recent call last)" in str(caught.value.__cause__)


@pytest.mark.parametrize(
    ("function", "arguments", "words"),
    [
        (leaves, (0,), "^leaves: its process ended itself with exit code 0, and said nothing$"),
        (crashes, (), r"^crashes: compiled code .*SIGSEGV, Segmentation fault\), called in ctypes/__init__\.py:\d+$"),
    ],
)
def test_a_process_that_ended_itself_is_not_called_again(
    function: Callable[..., Any], arguments: tuple[Any, ...], words: str
) -> None:
    with pytest.raises(UnforeseenError) as caught:
        executor().call(function, *arguments)
    assert re.search(words, str(caught.value)), str(caught.value)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(errno.EIO, "Input/output error", "data.parquet"), StorageError),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), ClientError),
        (MemoryError("Unable to allocate 9.3 TiB"), ClientError),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"), ClientError),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), PassingError),
        (httpx.ConnectError("no route to host"), PassingError),
        (RuntimeError("DataLoader worker (pid 17) is killed by signal: Killed."), PassingError),
        (RuntimeError("CUDA error: out of resources"), PassingError),
    ],
    ids=lambda item: repr(item)[:40],
)
def test_what_may_pass_is_no_verdict_on_what_was_given(error: BaseException, kind: type[Zk0Error]) -> None:
    """The service starts such a run again; what the user gave is not called bad for it."""
    found = error_of(tell(error), of_input=True)
    assert type(found) is kind
    assert not found.repeats
    assert str(error) in str(found)


def test_an_error_over_what_the_user_gave_is_bad_input() -> None:
    found = error_of(tell(KeyError("names")), of_input=True)
    assert isinstance(found, UnforeseenInputError)
    assert isinstance(found, BadInputError)
    assert found.exit_code == 2
    assert found.repeats


def test_what_looks_at_input_is_marked() -> None:
    from zk0.executors import calls
    from zk0.executors.call import _OF_INPUT

    before_a_run = {calls.settle, calls.ready, calls.examine, calls.preflight, calls.check_environments, calls.fetch}
    before_a_run |= {calls.try_policy, calls.describe, calls.leaves, calls.preflight_over_link, calls.digests}
    assert before_a_run == _OF_INPUT
    assert of_input(calls.fetch) is calls.fetch


ALL = sorted(
    (kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Zk0Error)),
    key=lambda kind: kind.__name__,
)


@pytest.mark.parametrize("kind", ALL)
def test_our_own_error_stays_what_it_is(kind: type[Zk0Error]) -> None:
    text = "dataset 'a': x\ndataset 'b': y; mend it"
    made = kind("out_of_memory", text) if issubclass(kind, ClientError) else kind(text)
    error = told(raises, made)
    assert type(error) is kind
    assert str(error) == text
    assert error.exit_code == made.exit_code
    if isinstance(made, ClientError):
        assert isinstance(error, ClientError)
        assert (error.cause, error.retriable) == (made.cause, made.retriable)


def odd() -> Any:
    raise OddDatasetError("arm", 3)


def test_an_error_of_ours_with_an_odd_constructor_is_that_of_its_base() -> None:
    with pytest.raises(DatasetError, match="dataset 'arm': row 3 is odd; mend it") as caught:
        executor().call(odd)
    assert type(caught.value) is DatasetError


def test_a_group_of_ours_is_one_of_ours() -> None:
    error = told(our_group)
    assert type(error) is DatasetError
    assert str(error) == "dataset 'a': x\npolicy.path: y"


def test_bad_data_of_a_client_is_bad_input() -> None:
    assert HopelessError("bad_data", "nan").exit_code == 2
    assert HopelessError("error", "TypeError").exit_code == 1
    assert not QuarantineError("out_of_memory", "too large").retriable


@pytest.mark.parametrize(("number", "times"), [(signal.SIGTERM, 3), (signal.SIGABRT, 1)])
def test_only_what_someone_else_ended_is_called_again(tmp_path: Path, number: signal.Signals, times: int) -> None:
    log = tmp_path / "calls"
    with pytest.raises(Zk0Error, match=number.name) as caught:
        executor().call(killed, number, log)
    assert log.read_text().count("called") == times
    assert "memory" not in str(caught.value)
    assert isinstance(caught.value, ClientError) == (times > 1)


def test_a_result_may_be_large() -> None:
    assert executor().call(bytes, 3_000_000) == bytes(3_000_000)


def test_a_call_that_is_interrupted_leaves_no_process(tmp_path: Path) -> None:
    """Ctrl-C here alone, as a service or a notebook has it; the terminal's goes to the process too."""
    marker = tmp_path / "pid"
    previous = signal.signal(signal.SIGUSR1, _interrupt)
    threading.Thread(target=_when_there, args=(marker,)).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            executor().call(_wait, marker)
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert not Path(f"/proc/{marker.read_text()}").exists()


def _wait(marker: Path) -> None:
    atomic.write_bytes(marker, str(os.getpid()).encode())
    time.sleep(60)


def _when_there(marker: Path) -> None:
    while not marker.exists():
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGUSR1)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def lerobots() -> Any:
    """Three that pickle takes and cannot give back."""
    from lerobot.datasets.utils import BackwardCompatibilityError, ForwardCompatibilityError
    from lerobot.processor.pipeline import ProcessorMigrationError
    from packaging.version import Version

    old, new = BackwardCompatibilityError("lab/arm", Version("2.1")), ForwardCompatibilityError("l/a", Version("4.0"))
    raise ExceptionGroup("all", [old, new, ProcessorMigrationError("lab/policy", "python -m migrate", "none")])


@pytest.mark.slow
def test_lerobots_own_that_cannot_be_made_again_are_told() -> None:
    error = told(lerobots)
    for words in (
        r"BackwardCompatibilityError: .* is in 2\.1 format\..*convert_dataset_v21_to_v30 --repo-id=lab/arm",
        r"ForwardCompatibilityError: .*\(l/a\) is only available in 4\.0 format",
        r"ProcessorMigrationError: .*requires migration to processor format\. Run: python -m migrate Original",
    ):
        assert re.search(words, str(error)), str(error)
