"""An error as plain data, so that its words cross from one process to another whatever class it is of.

An exception itself need not: many cannot be pickled, or not be made again, and whoever imports their class imports
torch. So it is told where it was raised, and raised again on the other side as an error of ours.
"""

import errno
import re
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path

from zk0 import errors
from zk0.errors import DURING, BadInputError, ClientError, FailureCause, Zk0Error, text_of
from zk0.files import untrusted
from zk0.work.records import Record

OURS = ("zk0", "tasks", "flows")
HOME = Path(errors.__file__).parents[1]
"""The folder that our packages lie in."""
STANDARD = Path(sysconfig.get_paths()["stdlib"])
SITE = re.compile(r".*/(?:site|dist)-packages/")
MOST_CAUSES, MOST_MEMBERS = 3, 5
"""What an error came from, and those of a group, as far as they are told; the traceback has all of them."""
OUT_OF_MEMORY = re.compile(r"can't allocate memory|Cannot allocate memory", re.IGNORECASE)
"""In the text of torch's plain RuntimeError where the CPU's memory ends; on a GPU it has a type of its own."""
PASSING = re.compile(
    r"DataLoader worker \(pid|CUDA|cuDNN|cublas|NCCL|NVML|shared memory|start new thread|ancdata|too many open files"
    r"|timed? ?out|temporar|connection",
    re.IGNORECASE,
)
"""In the text of a RuntimeError that a device, a killed helper or the network left; any other's cause stays."""
NETWORK = ("httpx", "httpcore", "requests", "urllib3", "huggingface_hub", "aiohttp")
"""Libraries whose errors may pass."""
DISK = {
    *(errno.EIO, errno.ESTALE, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENODEV),
    *(errno.ETIMEDOUT, errno.EBUSY, errno.ENXIO, errno.EREMOTEIO, errno.ENOLCK),
}
"""What a disk answers that cannot now: nothing is wrong with what lies on it."""


class Told(Record):
    """What an error says, in words that need neither its class nor its library."""

    kind: str | None
    """The class in `zk0.errors` whose error it is; None for anybody else's."""
    name: str
    """Its own class."""
    words: str
    """For the user; of a library's error class, text, causes and place."""
    cause: FailureCause
    """As of a client's work that ends by it."""
    passes: bool
    """Whether another attempt can end otherwise."""
    disk: bool
    """Whether a disk answered that it cannot now."""
    trace: str
    """The whole traceback, with those of the causes."""


def tell(error: BaseException) -> Told:
    """An error as plain data.

    Args:
        error: as it was caught; of a group whose members are all of ours, the group is told as the first of them.
    """
    leaves = list(_leaves(error))
    if all(isinstance(leaf, Zk0Error) for leaf in leaves):
        first, words = leaves[0], "\n".join(dict.fromkeys(map(text_of, leaves)))
    else:
        first, words = error, _words(error)
    cause: FailureCause = next((cause for cause in map(_cause, leaves) if cause != "error"), "error")
    if first is error and not isinstance(error, Zk0Error) and cause == "out_of_memory":
        words = f"out of memory: {words}"
    return Told(
        kind=_kind(first),
        name=type(first).__name__,
        words=words.encode(errors="replace").decode(),
        cause=cause,
        passes=any(_passes(leaf) for leaf in leaves),
        disk=any(isinstance(item, OSError) and item.errno in DISK for leaf in leaves for item in _chain(leaf)),
        trace=_trace(error),
    )


def fault_below(error: BaseException, folder: Path) -> OSError | None:
    """What a disk answered of a path below a folder, in what an error came of; None where it did not, or all is gone.

    Args:
        error: as it was caught, whoever raised it.
        folder: absolute.
    """
    for item in (item for leaf in _leaves(error) for item in _chain(leaf)):
        named = item.filename if isinstance(item, OSError) else None
        if isinstance(named, str) and Path(named).is_relative_to(folder) and not isinstance(item, FileNotFoundError):
            assert isinstance(item, OSError)
            return item
    return None


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            yield from _leaves(member)
    else:
        yield error


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what it came from, the last first."""
    seen: set[int] = set()
    now: BaseException | None = error
    while now is not None and id(now) not in seen:
        seen.add(id(now))
        yield now
        now = now.__cause__ or (None if now.__suppress_context__ else now.__context__)


def _kind(error: BaseException) -> str | None:
    """The nearest class of ours, as some other package may have made its own of it."""
    known = (base.__name__ for base in type(error).__mro__ if getattr(errors, base.__name__, None) is base)
    return next(known, None) if isinstance(error, Zk0Error) else None


def _cause(error: BaseException) -> FailureCause:
    if isinstance(error, ClientError):
        return error.cause
    if isinstance(error, BadInputError):
        return "bad_data"
    if isinstance(error, MemoryError) or _class_is(error, "torch", "OutOfMemoryError"):
        return "out_of_memory"
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return "out_of_memory"
    if isinstance(error, RuntimeError) and OUT_OF_MEMORY.search(text_of(error)):
        return "out_of_memory"
    return "error"


def _passes(error: BaseException) -> bool:
    """Whether another attempt can end otherwise.

    A library's error that no network, disk, device or killed helper had a part in will be the same again: a piece of
    work is a pure function of what it is given.
    """
    if isinstance(error, ClientError):
        return error.retriable
    if isinstance(error, Zk0Error):
        return not error.repeats
    return _cause(error) != "error" or any(_may_pass(item) for item in _chain(error))


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, NotImplementedError | RecursionError):
        return False
    if isinstance(error, RuntimeError) and PASSING.search(text_of(error)):
        return True
    from_network = any(base.__module__.partition(".")[0] in NETWORK for base in type(error).__mro__)
    return from_network or isinstance(error, OSError | EOFError | KeyboardInterrupt)


def _class_is(error: BaseException, package: str, name: str) -> bool:
    return any(base.__name__ == name and base.__module__.partition(".")[0] == package for base in type(error).__mro__)


def _words(error: BaseException) -> str:
    """A library's error: what we were at, class, text, causes, place; one line of bounded length."""
    notes = [str(note) for note in getattr(error, "__notes__", ())]
    at = [note.removeprefix(DURING) for note in reversed(notes) if note.startswith(DURING)]
    said = _said(error)
    for cause in list(_chain(error))[1 : 1 + MOST_CAUSES]:
        if (text := _said(cause)) not in said:
            said += f", from {text}"
    said += "".join(f" ({note})" for note in notes if not note.startswith(DURING))
    head = f"{': '.join(at)}: " if at else ""
    place = f" ({_place(error)})"
    room = untrusted.LONGEST_WORDS - len(place)
    return untrusted.printable(" ".join(f"{head}{said}".split()))[:room] + untrusted.printable(place)


def _said(error: BaseException) -> str:
    """Class and text; of a group those of its members; of a helper process' traceback its last line."""
    text = " ".join(text_of(error).split())
    if isinstance(error, BaseExceptionGroup):
        text += ": " + "; ".join(map(_said, error.exceptions[:MOST_MEMBERS]))
    elif "Traceback (most recent call last)" in text:
        lines = [line.strip() for line in text_of(error).splitlines() if line.strip()]
        text = f"{lines[0]} {lines[-1]}"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _place(error: BaseException) -> str:
    """Where it was raised: the innermost line of a library, and that of ours which called it."""
    frames = [(Path(frame.filename), frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    ours = [at for at, (path, _) in enumerate(frames) if _is_ours(path)]
    below = frames[ours[-1] + 1 :] if ours else frames
    readable = [frame for frame in below if frame[0].suffix == ".py"] or below
    theirs = [frame for frame in readable if not _is_standard(frame[0])] or readable
    told = [spelled(*theirs[-1])] if theirs else []
    told += [spelled(*frames[ours[-1]])] if ours else []
    if not told:
        return "at no known place"
    if theirs:
        return f"in {told[0]}, called at {told[1]}" if ours else f"in {told[0]}"
    return f"at {told[0]}, in zk0 itself: please report it"


def _is_ours(path: Path) -> bool:
    return path.is_relative_to(HOME) and path.relative_to(HOME).parts[0] in OURS


def _is_standard(path: Path) -> bool:
    return (path.is_relative_to(STANDARD) and not SITE.match(path.as_posix())) or str(path).startswith("<")


def spelled(path: Path, line: int | None) -> str:
    """A place as its library's own people know it: `lerobot/datasets/utils.py:70`."""
    text = path.as_posix()
    for home in (HOME, STANDARD):
        if path.is_relative_to(home):
            text = path.relative_to(home).as_posix()
    return f"{SITE.sub('', text)}:{line}"


def _trace(error: BaseException) -> str:
    return "".join(traceback.TracebackException.from_exception(error).format()).encode(errors="replace").decode()
