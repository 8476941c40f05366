"""The Docker engine, which may be away for a while, and the containers in it that are ours."""

import time
from collections.abc import Callable
from http import HTTPStatus

import docker
from docker.errors import APIError, DockerException, NotFound
from docker.models.containers import Container
from loguru import logger
from requests.exceptions import RequestException

from zk0.errors import ClientError

POLL_S = 0.25
ENGINE_TIMEOUT_S = 60
ENGINE_PATIENCE_S = 120.0
"""So long an engine may be away, for a restart or an upgrade, before the work in its containers counts as lost."""
ENGINE_ERRORS = (DockerException, RequestException)


def connect() -> docker.DockerClient:
    """A client of the engine that DOCKER_HOST names, or of the one on this machine."""
    return docker.from_env(timeout=ENGINE_TIMEOUT_S)


def patiently[Answer](ask: Callable[[], Answer]) -> Answer:
    """Ask the engine, again and again while it is away: a restart must not cost a run.

    Args:
        ask: the question.

    Raises:
        ClientError: the engine stays away (cause `lost`).
        NotFound: what was asked for does not exist; that is an answer.
    """
    deadline = time.monotonic() + ENGINE_PATIENCE_S
    warned = False
    while True:
        try:
            return ask()
        except NotFound:
            raise
        except ENGINE_ERRORS as error:
            if time.monotonic() > deadline:
                raise ClientError("lost", f"the Docker engine does not answer: {reason(error)}") from error
            if not warned:
                logger.warning("the Docker engine does not answer ({}): waiting for it", reason(error))
                warned = True
        time.sleep(POLL_S)


def labelled(client: docker.DockerClient, labels: dict[str, str]) -> list[Container]:
    """Containers of the executor with these labels, running or not."""
    wanted = ["zk0.key", *(f"{key}={value}" for key, value in labels.items())]
    found: list[Container] = client.containers.list(all=True, filters={"label": wanted}, ignore_removed=True)
    return found


def remove(container: Container) -> None:
    """Kill and remove; one that is gone, or going, is fine."""

    def ask() -> None:
        try:
            container.remove(force=True, v=True)
        except APIError as error:
            if error.status_code != HTTPStatus.CONFLICT:  # someone removes it already
                raise

    try:
        patiently(ask)
    except NotFound:
        return
    except ClientError as error:
        logger.warning("container {} is left behind: {}", container.name, error)


def reason(error: Exception) -> str:
    """One line for the user."""
    text = error.explanation if isinstance(error, APIError) and error.explanation else str(error)
    return " ".join(str(text).split())
