"""The ClientApp of `flwr run`: says which client the node is, and does its work. Light to import; workers have torch.

Flower takes a message back where the ClientApp has not begun within 30 s.
"""

from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from zk0.link.parcel import packed, text_of

app = ClientApp()


@app.query("who")
def who(message: Message, context: Context) -> Message:
    """Which client the node is, as far as it knows."""
    return Message(packed(words(context)), reply_to=message)


@app.query()
@app.train()
@app.evaluate()
def work(message: Message, context: Context) -> Message:
    """One piece of work, or a question about one."""
    if "task" in text_of(message.content):
        from zk0.flower.in_place import work_in_place

        return Message(work_in_place(message.content), reply_to=message)
    from zk0.flower.at_home import answer

    return answer(message, context)


def words(context: Context) -> dict[str, str]:
    """What the node's config says of it.

    Args:
        context: Flower's.
    """
    config = context.node_config
    known = {"client": config.get("client"), "partition": config.get("partition-id"), "home": config.get("home")}
    if known["home"] is not None:
        from zk0.node.settings import load

        known["client"] = load(Path(str(known["home"]))).client
    return {name: str(value) for name, value in known.items() if value is not None}
