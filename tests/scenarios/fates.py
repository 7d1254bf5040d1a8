"""What a test process does to itself at a named call of the store: die, or stand still.

The product has no hooks for this: the store it is given is wrapped.
"""

import argparse
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from emailerctl.store.driver import Driver, Tx
from emailerctl.store.sqlstore import SqlStore
from emailerctl.store.together import Adding

VERBS = ("add", "claim", "mark", "settle", "testify", "give_back", "renew")


@dataclass
class Fate:
    """At the *nth* call of *verb*, before or after it, the process gets *signal_*.

    Attributes:
        only: counts only calls about a message with that recipient.
    """

    signal_: signal.Signals
    is_after: bool
    verb: str
    nth: int = 1
    only: str = ""
    calls: int = 0

    def has_come(self, arguments: tuple[Any, ...]) -> bool:
        """Count a call; True when it is the one."""
        if self.only and not _is_about(arguments, self.only):
            return False
        self.calls += 1
        return self.calls == self.nth

    @property
    def is_stop(self) -> bool:
        """Return whether the process only stands still, and others go on beside it."""
        return self.signal_ == signal.SIGSTOP

    def strike(self) -> None:
        """Die, or stop until somebody says SIGCONT."""
        os.kill(os.getpid(), self.signal_)


def _is_about(arguments: tuple[Any, ...], address: str) -> bool:
    return any(
        recipient.address == address
        for argument in arguments
        for recipient in getattr(argument, "recipients", ())
    )


class CountingDriver:
    """A driver that knows when its writer has nothing to do."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._asked = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._driver, name)

    def write(self, work: Callable[[Tx], Any]) -> Any:
        self._asked += 1
        return self._driver.write(work)

    async def until_idle(self) -> None:
        """Wait until everything that was asked for is committed, and nothing more was.

        Who stands still in the middle of a transaction keeps the store's write lock.
        """
        asked = -1
        while asked != self._asked:
            asked = self._asked
            await self._driver.write(lambda _: None)


class FatedStore:
    """A store whose calls meet their fates."""

    def __init__(self, store: SqlStore, fates: list[Fate]) -> None:
        self._store = store
        self._fates = fates
        if any(fate.is_stop for fate in fates):
            store.driver = self._driver = CountingDriver(store.driver)

    def __getattr__(self, name: str) -> Any:
        verb = getattr(self._store, name)
        fates = [fate for fate in self._fates if fate.verb == name]
        if not fates:
            return verb
        return lambda *arguments, **named: self._call(verb, fates, arguments, named)

    async def _call(
        self,
        verb: Callable[..., Awaitable[Any]],
        fates: list[Fate],
        arguments: tuple[Any, ...],
        named: dict[str, Any],
    ) -> Any:
        come = [fate for fate in fates if fate.has_come(arguments)]
        for fate in come:
            if not fate.is_after:
                await self._strike(fate)
        result = await verb(*arguments, **named)
        for fate in come:
            if fate.is_after:
                await self._strike(fate)
        return result

    async def _strike(self, fate: Fate) -> None:
        if fate.is_stop:
            await self._driver.until_idle()
        fate.strike()


class DyingDriver:
    """A driver that dies inside the transaction, after the *nth* message was written to it."""

    def __init__(self, driver: Driver, nth: int) -> None:
        self._driver = driver
        self._nth = nth
        self._added = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._driver, name)

    async def write(self, work: Callable[[Tx], Any]) -> Any:
        is_add = isinstance(work, Adding)

        def work_and_die(tx: Tx) -> Any:
            result = work(tx)
            self._added += is_add
            if is_add and self._added == self._nth:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return await self._driver.write(work_and_die)


def add_options(parser: argparse.ArgumentParser) -> None:
    for name in ("kill-before", "kill-after", "stop-before", "stop-after"):
        parser.add_argument(f"--{name}", choices=VERBS)
    parser.add_argument("--nth", type=int, default=1, help="at that call of the verb")
    parser.add_argument("--only", default="", metavar="RECIPIENT", help="about a message to it")


def parse_fates(arguments: argparse.Namespace) -> list[Fate]:
    fates = []
    for name in ("kill_before", "kill_after", "stop_before", "stop_after"):
        verb = getattr(arguments, name)
        if verb:
            signal_ = signal.SIGKILL if name.startswith("kill") else signal.SIGSTOP
            is_after = name.endswith("after")
            fates.append(Fate(signal_, is_after, verb, arguments.nth, arguments.only))
    return fates
