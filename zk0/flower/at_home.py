"""Work on a node that has a home of zk0's: its recordings, its owner's rules and its ledger, under plain Flower.

Flower starts a process for each message, which does what `zk0.node.app` does; the worker that does the work lives for
as long as the SuperNode, with torch imported.
"""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
from flwr.app import Context, Message

from zk0.link.parcel import packed, text_of
from zk0.link.wire import Answer, Request
from zk0.node import worker
from zk0.node.desk import HOME_VARIABLE, Desk
from zk0.node.settings import LOG

LOOK_S = 1.0
"""Between two looks at whether the SuperNode lives."""


def answer(message: Message, context: Context) -> Message:
    """What the node says to a message of the courier's.

    Args:
        message: Flower's.
        context: whose node config has `home`.
    """
    home = context.node_config.get("home")
    if home is None:
        text = text_of(message.content)
        ask = Request.model_validate_json(text["request"]).ask if "request" in text else next(iter(text.values()))
        why = "it has no home; start its SuperNode with --node-config 'home=\"HOME\"', of `zk0 node key HOME`"
        said = Answer(ask=ask, state="failed", message=why, repeats=True)
        return Message(packed({"answer": said.model_dump_json()}), reply_to=message)
    from zk0.node import app

    os.environ[HOME_VARIABLE] = str(home)
    man(Path(str(home)), os.getppid())
    return app.query(message, context)


def man(home: Path, supernode: int) -> None:
    """See that a worker is at the desk.

    Args:
        home: of the node.
        supernode: id of the process with which the worker ends.
    """
    with Desk(home).manned() as free:
        if not free:
            return
    command = [sys.executable, "-P", "-m", "zk0.flower.at_home", str(home), str(supernode)]
    with (home / LOG).open("ab") as log:
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)


def _end_with(supernode: int) -> None:
    """End this process, and no fit of it, when another one has ended."""
    try:
        process = psutil.Process(supernode)
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(LOOK_S)
    except psutil.NoSuchProcess:
        pass
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=_end_with, args=(int(sys.argv[2]),), daemon=True).start()
    sys.exit(worker.main(Path(sys.argv[1])))
