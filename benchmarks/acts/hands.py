"""A person's hands: the buttons of Prefect's pages, and the commands of a shell."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from playwright.sync_api import Page

from benchmarks.service import FLOW, ServedCommandLine

NIGHTLY = f"{FLOW}/nightly"
COMMAND_S = 120


class Hands(Protocol):
    """What a person can do; each act comes back when it is done, and `flow_run` is the id of one."""

    def start(self, name: str, config: Path) -> None: ...
    def cancel(self, flow_run: str) -> None: ...
    def suspend(self, flow_run: str) -> None: ...
    def resume(self, flow_run: str) -> None: ...
    def retry(self, flow_run: str) -> None: ...
    def delete(self, flow_run: str) -> None: ...
    def pause_schedule(self) -> None: ...


class Shell:
    """`prefect`, as another shell has it; what that has no command for is done by its `prefect api`.

    Args:
        served: the service.
    """

    def __init__(self, served: ServedCommandLine) -> None:
        self._served = served

    def start(self, name: str, config: Path) -> None:
        self._prefect("deployment", "run", NIGHTLY, "--flow-run-name", name, "--param", f"config={config}")

    def cancel(self, flow_run: str) -> None:
        self._prefect("flow-run", "cancel", flow_run)

    def suspend(self, flow_run: str) -> None:
        until = (datetime.now(UTC) + timedelta(minutes=5)).isoformat()
        details = {"pause_timeout": until, "pause_reschedule": True}
        state = {"type": "PAUSED", "name": "Suspended", "state_details": details}
        self._api(f"/flow_runs/{flow_run}/set_state", {"state": state})

    def resume(self, flow_run: str) -> None:
        self._api(f"/flow_runs/{flow_run}/resume", {})

    def retry(self, flow_run: str) -> None:
        self._prefect("flow-run", "retry", flow_run)

    def delete(self, flow_run: str) -> None:
        self._prefect("--no-prompt", "flow-run", "delete", flow_run)

    def pause_schedule(self) -> None:
        self._prefect("--no-prompt", "deployment", "schedule", "pause", NIGHTLY, str(self._served.schedules()[0]["id"]))

    def _api(self, path: str, body: dict[str, Any]) -> None:
        self._prefect("api", "POST", path, "--data", json.dumps(body))

    def _prefect(self, *words: str) -> None:
        subprocess.run(
            [sys.executable, "-m", "prefect", *words],
            env={**self._served.environment, "PREFECT_API_URL": self._served.api},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=True,
            timeout=COMMAND_S,
        )


class Pages:
    """Prefect's own pages: each act opens the page anew, presses the button, and confirms it.

    Args:
        served: the service.
        page: a window.
    """

    def __init__(self, served: ServedCommandLine, page: Page) -> None:
        self._served, self._page = served, page
        self._site = served.api.removesuffix("/api")

    def start(self, name: str, config: Path) -> None:
        """Custom run: its form."""
        self._open(f"/deployments/deployment/{self._served.nightly()}/run")
        self._page.locator("input").first.fill(name)
        self._page.locator("textarea").first.fill(str(config))
        self._press("Submit")
        self._page.wait_for_function("() => !location.pathname.endsWith('/run')")

    def cancel(self, flow_run: str) -> None:
        self._on_the_page_of(flow_run, "Cancel", "Confirm")

    def suspend(self, flow_run: str) -> None:
        self._on_the_page_of(flow_run, "Suspend", "Submit")

    def resume(self, flow_run: str) -> None:
        self._on_the_page_of(flow_run, "Resume", "Submit")

    def retry(self, flow_run: str) -> None:
        self._on_the_page_of(flow_run, "Retry", "Retry")

    def delete(self, flow_run: str) -> None:
        """In the menu behind the three dots."""
        self._open(f"/runs/flow-run/{flow_run}")
        self._page.locator(".flow-run-menu, button.h-10.w-10").first.click()
        self._page.locator(".p-overflow-menu-item").filter(has_text="Delete").click()
        self._confirm("Delete")

    def pause_schedule(self) -> None:
        """The switch beside the schedule."""
        self._open(f"/deployments/deployment/{self._served.nightly()}")
        self._page.locator(".p-toggle").first.click()

    def _on_the_page_of(self, flow_run: str, button: str, confirmation: str) -> None:
        self._open(f"/runs/flow-run/{flow_run}")
        self._press(button)
        self._confirm(confirmation)

    def _open(self, path: str) -> None:
        self._page.goto(f"{self._site}{path}")

    def _press(self, button: str) -> None:
        self._page.get_by_role("button", name=button, exact=True).first.click()

    def _confirm(self, button: str) -> None:
        self._page.locator(".p-modal").get_by_role("button", name=button, exact=True).click()
