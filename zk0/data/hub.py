"""Ask the Hugging Face hub again where it is busy for a moment: huggingface_hub itself does so for files alone."""

import time
from collections import Counter
from collections.abc import Callable, Iterator

import httpx
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from loguru import logger

HUB_ERRORS = (httpx.HTTPError, HFValidationError, LocalEntryNotFoundError, ConnectionError)
"""What a call to the hub may raise; an answer that is no success is an httpx.HTTPError, too."""
BUSY = (408, 429, 500, 502, 503, 504)
"""Answers that may pass: those for which huggingface_hub asks for files again."""
ATTEMPTS = 6
"""As many as huggingface_hub's own for files: it gives up after five more."""
FIRST_WAIT_S = 1.0
"""Seconds before the second attempt, doubled before each further one: 31 s in all."""
LONGEST_WAIT_S = 300.0
"""Seconds: the hub's rate limits count in windows of five minutes, and it says how long to wait (Retry-After)."""


def patiently[T](call: Callable[[], T], what: str) -> T:
    """Call, and again with growing pauses while the hub answers that it is busy (429, 5xx).

    LeRobot asks the hub for a dataset's versions, commit and list of files by calls that huggingface_hub does not
    repeat; a download that is called again goes on with what lies in the cache.

    Args:
        call: what asks the hub; called again as long as no single address has refused ATTEMPTS times.
        what: what is asked for, for the log.

    Raises:
        One of HUB_ERRORS: it is still busy, or the answer is no other time's.
    """
    asked: Counter[str] = Counter()  # each address has attempts of its own: a call asks several
    while True:
        try:
            return call()
        except HUB_ERRORS as error:
            answer = _busy_answer(error)
            if answer is None:
                raise
            asked[str(answer.url)] += 1
            attempt = asked[str(answer.url)]
            if attempt == ATTEMPTS:
                raise
            pause = max(FIRST_WAIT_S * 2 ** (attempt - 1), _retry_after(answer))
            logger.warning(
                "{}: the hub answers {}; asking again in {:.0f} s (attempt {} of {})",
                *(what, answer.status_code, pause, attempt, ATTEMPTS),
            )
            time.sleep(pause)


def _busy_answer(error: BaseException) -> httpx.Response | None:
    """The hub's answer behind an error, if it was one that may pass."""
    for cause in _causes(error):
        if isinstance(cause, HfHubHTTPError) and cause.response.status_code in BUSY:
            return cause.response
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it came from: a failed look-up shows as a file that is not in the cache."""
    while error is not None:
        yield error
        error = error.__cause__


def _retry_after(answer: httpx.Response) -> float:
    """Seconds that the hub asks to wait; 0 where it does not say."""
    text = answer.headers.get("retry-after", "").strip()
    return min(float(text), LONGEST_WAIT_S) if text.isdigit() else 0.0


def is_hub_id(path: str) -> bool:
    """Whether a path may be meant as an id of the hub: `name` or `owner/name`."""
    parts = path.split("/")
    return len(parts) <= 2 and all(part and part.strip(".~") and not set(part) & set("\\: ~") for part in parts)
