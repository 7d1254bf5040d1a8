"""What a database driver must know: how to connect, and how to run work in a transaction."""

from asyncio import Future
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from emailerctl.models.event import Event

T = TypeVar("T")
Row = Sequence[object]
Params = Mapping[str, object]


class Tx(Protocol):
    """A transaction, as seen by the functions of `sqlstore`."""

    memo: dict[str, object]  # what this transaction has already looked up
    events: list[Event]  # written here; published after the commit
    has_new_work: bool  # consumers are to be woken after the commit

    def all(self, sql: str, params: Params = ...) -> list[tuple[object, ...]]:
        """Run *sql* and return every row."""
        ...

    def one(self, sql: str, params: Params = ...) -> tuple[object, ...] | None:
        """Run *sql* and return its first row, or None."""
        ...

    def run(self, sql: str, params: Params = ...) -> int:
        """Run *sql* and return how many rows it touched."""
        ...

    def many(self, sql: str, rows: Sequence[Params]) -> int:
        """Run *sql* once for each of *rows*, and return how many rows that touched in all."""
        ...

    def insert(self, sql: str, params: Params) -> int:
        """Run an INSERT and return the integer key that the row was given."""
        ...


class NotAlike(Exception):
    """Pieces of work can't share their statements: each is to run by itself."""


class Batch(Protocol[T]):
    """Work that can share its statements with others of its class in the same group."""

    def __call__(self, tx: Tx, /) -> T:
        """Run this piece alone."""
        ...

    @staticmethod
    def run_together(tx: Tx, works: Sequence["Batch[T]"], /) -> Sequence[T]:
        """Run all of *works* and return their results in order.

        Raises:
            NotAlike: what was written so far is rolled back, and each runs alone.
        """
        ...


class Driver(Protocol):
    """One database.  It knows no table."""

    def write(self, work: Callable[[Tx], T]) -> "Future[T]":
        """Run *work* in a transaction of the writer; the future has its result after the sync.

        Work that waits while a commit runs shares the next one, each under its own savepoint.
        """
        ...

    def write_all(self, works: Sequence[Callable[[Tx], T]]) -> "list[Future[T]]":
        """Run *works* in one transaction, each as `write` would."""
        ...

    async def read(self, work: Callable[[Tx], T]) -> T:
        """Run *work* on a connection of a reader: one consistent snapshot."""
        ...

    async def close(self) -> None:
        """Finish what was begun and close."""
        ...
