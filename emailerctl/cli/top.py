"""`emailerctl top`: rates, queue, next hops and who refuses, live."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from typer import Context

from emailerctl.cli import output, queue, session, status
from emailerctl.core import tally
from emailerctl.core.eventlog import EventLog, read_after
from emailerctl.core.tally import Group, Sums, Tally
from emailerctl.errors import UsageError
from emailerctl.models.ids import MESSAGE, to_public
from emailerctl.models.page import EventFilter

if TYPE_CHECKING:
    from emailerctl.wiring import App

_EVERY_S = 1.0
_FAR_BACK = 50_000  # events at the most, when it begins
_DOMAINS = 8

Order = Callable[[tuple[str, Group]], Any]
# What tables can be sorted by, and how.
_ORDERS: Mapping[str, Order] = {
    "failing": lambda pair: (-pair[1].failures, -pair[1].counts[tally.SENT], pair[0]),
    "sent": lambda pair: (-pair[1].counts[tally.SENT], pair[0]),
    "slow": lambda pair: (-(pair[1].find_age_ms(0.95) or 0), pair[0]),
    "name": lambda pair: pair[0],
}


@dataclass(slots=True)
class _View:
    """What the keys have chosen."""

    order: str = "failing"
    next_hop: str = ""
    is_paused: bool = False
    is_over: bool = False
    hops: list[str] = field(default_factory=list)

    def press(self, key: str) -> None:
        """Act on a key; others do nothing."""
        if key in ("q", "Q", "\x1b"):
            self.is_over = True
        elif key == "p":
            self.is_paused = not self.is_paused
        elif key == "s":
            names = list(_ORDERS)
            self.order = names[(names.index(self.order) + 1) % len(names)]
        elif key == "f":
            names = ["", *self.hops]
            place = names.index(self.next_hop) if self.next_hop in names else -1
            self.next_hop = names[(place + 1) % len(names)]


def top(ctx: Context) -> None:
    """Watch rates, queue, next hops and failures of the last minute, until q.

    Keys: s sorts (failing, sent, slow, name), f narrows to one next hop after the other, p
    holds the picture, q ends.

    Example: emailerctl top
    """
    if not (output.is_terminal() and sys.stdin.isatty()):
        raise UsageError("top needs a terminal", hint="for scripts: emailerctl status --short")
    session.run(ctx, _watch)


async def _watch(opened: "App") -> None:
    import asyncio

    view, pressed = _View(), asyncio.Event()

    def press(key: str) -> None:
        view.press(key)
        pressed.set()

    counting = Tally(opened.clock.now_ms() - tally.WINDOW_MS)
    last_seq = await opened.store.last_seq()
    since = await opened.store.find_seq_since(opened.clock.now_ms() - tally.WINDOW_MS)
    seq = max(since, last_seq - _FAR_BACK)
    with output.screen() as show, _keys(press):
        while not view.is_over:
            seq = await _take(opened.store, counting, seq)
            if not view.is_paused or pressed.is_set():
                picture = await status.look(opened)
                view.hops = [one.hop.name for one in picture.hops]
                sums = counting.add_up(picture.now_ms, next_hop=view.next_hop)
                show(_draw(picture, sums, view))
            pressed.clear()
            try:
                await asyncio.wait_for(pressed.wait(), _EVERY_S)
            except TimeoutError:
                continue


async def _take(log: EventLog, counting: Tally, seq: int) -> int:
    async for event in read_after(log, EventFilter(), seq):
        counting.take(event)
        seq = event.seq
    return seq


@contextmanager
def _keys(press: Callable[[str], None]) -> Iterator[None]:
    """Call *press* with each key, without Enter, until the block ends."""
    import asyncio
    import os
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    loop = asyncio.get_running_loop()

    def read() -> None:
        keys = os.read(descriptor, 32).decode(errors="ignore")
        for key in keys if not keys.startswith("\x1b[") else "":
            press(key)
        if not keys:  # the terminal is gone
            press("q")

    tty.setcbreak(descriptor)
    loop.add_reader(descriptor, read)
    try:
        yield
    finally:
        loop.remove_reader(descriptor)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


# The picture


def _draw(picture: status.Picture, sums: Sums, view: _View) -> object:
    """Return what Rich draws; every text that came from outside is made safe."""
    from rich.console import Group as Stack
    from rich.text import Text

    held = "  HELD (p goes on)" if view.is_paused else ""
    head = Text.assemble(
        ("emailerctl top", "bold"),
        f"  {output.show_time(picture.now_ms, '%H:%M:%S')}  last {sums.seconds:.0f} s{held}",
        (
            f"   s sort: {view.order}  f next hop: {view.next_hop or 'all'}  p hold  q quit",
            "dim",
        ),
    )
    everything = sums.everything
    rates = "   ".join(
        f"{name} {_rate(everything.counts[name], sums)}/s"
        for name in (tally.ACCEPTED, tally.SENT, tally.DEFERRED, tally.REFUSED)
    )
    ages = "  ".join(
        f"p{quantile * 100:.0f} {_age(everything.find_age_ms(quantile))}"
        for quantile in (0.5, 0.95, 0.99)
    )
    lines: list[Any] = [
        head,
        Text(f"{rates}   age when sent: {ages}"),
        *(Text(output.safe(text), style=style) for text, style in _describe(picture)),
        _draw_hops(picture, sums, view),
        _draw_domains(sums, view),
        _draw_slowest(sums),
    ]
    return Stack(*lines)


def _describe(picture: status.Picture) -> Iterator[tuple[str, str]]:
    stats = picture.stats
    counts = ", ".join(f"{getattr(stats, name)} {name}" for name, _ in queue.MEANINGS)
    oldest = stats.oldest_due_ms
    late = "" if oldest is None else f"; oldest due {output.ago(oldest, picture.now_ms)}"
    yield f"queue: {counts}{late}", "bold magenta" if stats.unknown else ""
    alive = len(status.find_alive(picture))
    flying = sum(one.in_flight for one in picture.consumers)
    yield f"consumers: {alive}, {flying} in flight", "" if alive else "bold red"
    for alert in picture.alerts:
        yield f"{alert.name}: {alert.detail}", "bold red"


def _build_table(title: str, *columns: str) -> Any:
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", expand=True, box=None)
    for column in columns:
        is_text = column in ("next hop", "domain", "state", "last refusal", "recipient", "id")
        table.add_column(column, justify="left" if is_text else "right", no_wrap=True)
    return table


def _draw_hops(picture: status.Picture, sums: Sums, view: _View) -> object:
    table = _build_table(
        "Next hops", "next hop", "state", "sent/s", *tally.FAILURES, "p50", "p95"
    )
    standing = {one.hop.name: status.describe_hop(one) for one in picture.hops}
    groups = {name: sums.hops.get(name, Group()) for name in {*standing, *sums.hops}}
    for name, group in sorted(groups.items(), key=_ORDERS[view.order]):
        if view.next_hop in ("", name):
            table.add_row(
                *map(output.text, (name, standing.get(name, "gone"))),
                _rate(group.counts[tally.SENT], sums),
                *(str(group.counts[one]) for one in tally.FAILURES),
                *(_age(group.find_age_ms(quantile)) for quantile in (0.5, 0.95)),
            )
    return table


def _draw_domains(sums: Sums, view: _View) -> object:
    table = _build_table(
        "Recipient domains", "domain", "sent", *tally.FAILURES, "p95", "last refusal"
    )
    for name, group in sorted(sums.domains.items(), key=_ORDERS[view.order])[:_DOMAINS]:
        table.add_row(
            output.text(name),
            str(group.counts[tally.SENT]),
            *(str(group.counts[one]) for one in tally.FAILURES),
            _age(group.find_age_ms(0.95)),
            output.text(group.reply),
        )
    return table


def _draw_slowest(sums: Sums) -> object:
    table = _build_table("Slowest", "id", "age", "next hop", "recipient")
    for age_ms, event in sums.slowest:
        public = "" if event.message_id is None else to_public(MESSAGE, event.message_id)
        words = (event.provider or "", event.recipient or "")
        table.add_row(public, _age(age_ms), *map(output.text, words))
    return table


def _rate(count: int, sums: Sums) -> str:
    rate = count / sums.seconds
    return f"{rate:.1f}" if rate >= 1 or not count else f"{rate:.2f}"


def _age(age_ms: int | None) -> str:
    if age_ms is None:
        return "-"
    if age_ms < 1_000:
        return f"{age_ms} ms"
    return f"{age_ms / 1000:.1f} s" if age_ms < 120_000 else f"{age_ms // 60_000} min"
