"""What stands between acceptance and the consumer, and how it goes wrong: every kind."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from emailerctl.models.doorbell import build_doorbell
from tests.forestmq.fixture import ForestMq
from tests.scenarios.world import World

# Short, so that stories are.
FORESTMQ = {"fallback_after": "2s", "timeout": "3s"}


class Broker(Protocol):
    """A kind of queue, in the hands of a story."""

    @property
    def settings(self) -> Mapping[str, object]:
        """Return what the settings say of it, by dotted key."""
        ...

    def lose(self, world: World) -> None:
        """Lose every ticket from now on, without a word."""
        ...

    def repeat(self, world: World, message_ids: Sequence[int]) -> None:
        """Tell of *message_ids*, whatever they are, again and again."""
        ...


class Embedded:
    """No broker: a bell, and the store."""

    settings: Mapping[str, object] = {}

    def lose(self, world: World) -> None:
        for ear in world.app.folders.wake.iterdir():
            ear.unlink()

    def repeat(self, world: World, message_ids: Sequence[int]) -> None:
        for _ in range(20 * max(len(message_ids), 1)):
            world.app.bell.ring()


class ByForestMq(Embedded):
    """Doorbells by way of ForestMQ, and the bell of the host too."""

    def __init__(self, server: ForestMq) -> None:
        self.server = server
        self.settings = {
            "queue.kind": "forestmq",
            "queue.forestmq": {**FORESTMQ, "topics": {"email.send": server.url}},
        }

    def lose(self, world: World) -> None:
        super().lose(world)
        self.server.set(drop=1)

    def repeat(self, world: World, message_ids: Sequence[int]) -> None:
        super().repeat(world, message_ids)
        for message_id in message_ids or (1,):
            self.server.put(build_doorbell("email.send", message_id), times=20)


def build_broker(kind: str, start: Callable[..., ForestMq], *options: str) -> Broker:
    """Return a broker of *kind*; *options* are the stand-in's."""
    return Embedded() if kind == "embedded" else ByForestMq(start(*options))
