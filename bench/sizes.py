"""How much is measured: `--quick` to try, the default, `--full` for figures to be quoted."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """Numbers of one profile.

    Attributes:
        accepted: requests of one measurement of acceptance.
        slow: the same with a slow disk.
        finished: the two stores that are compared: few finished messages, many.
        aged: messages accepted and delivered in each of them, a round.
        delivered: messages in the queue of one measurement of delivery.
        through: messages of one measurement end to end.
        singles: messages sent one at a time.
        remembered: mails after which memory is read.
        starts: how often the command line is started.
        rounds: how often every comparison is made.
    """

    name: str
    accepted: int
    slow: int
    finished: tuple[int, int]
    aged: int
    delivered: int
    through: int
    singles: int
    remembered: int
    starts: int
    rounds: int


QUICK = Sizes(
    name="quick",
    accepted=600,
    slow=400,
    finished=(1_000, 20_000),
    aged=400,
    delivered=600,
    through=600,
    singles=40,
    remembered=2_000,
    starts=3,
    rounds=2,
)
DEFAULT = Sizes(
    name="default",
    accepted=4_000,
    slow=3_000,
    finished=(10_000, 1_000_000),
    aged=3_000,
    delivered=8_000,
    through=6_000,
    singles=200,
    remembered=20_000,
    starts=10,
    rounds=5,
)
FULL = Sizes(
    name="full",
    accepted=12_000,
    slow=8_000,
    finished=(10_000, 1_000_000),
    aged=8_000,
    delivered=20_000,
    through=20_000,
    singles=500,
    remembered=100_000,
    starts=20,
    rounds=5,
)
