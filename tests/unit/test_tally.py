"""What the events of the last minute add up to."""

from random import Random

from emailerctl.core import tally
from emailerctl.core.tally import Tally
from emailerctl.models.event import MESSAGE_ACCEPTED, RECIPIENT, Event
from emailerctl.models.ids import build_message_id, find_moment
from emailerctl.models.lifecycle import Cause

NOW_MS = 1_900_000_000_000


def event(type_: str, *, ago_ms: int = 0, age_ms: int = 0, **more: object) -> Event:
    at_ms = NOW_MS - ago_ms
    message_id = build_message_id(at_ms - age_ms, Random(1))
    return Event(seq=1, type=type_, at_ms=at_ms, message_id=message_id, **more)  # type: ignore[arg-type]


def add_up(*events: Event, began_ms: int = 0, **more: str) -> tally.Sums:
    counting = Tally(began_ms)
    for one in events:
        counting.take(one)
    return counting.add_up(NOW_MS, **more)


def test_an_id_says_when_it_was_made() -> None:
    assert find_moment(build_message_id(NOW_MS, Random(1))) == NOW_MS


def test_counted_for_next_hops_and_domains() -> None:
    sent = RECIPIENT[Cause.HANDED_OVER]
    sums = add_up(
        event(MESSAGE_ACCEPTED),
        event(sent, age_ms=100, provider="one", recipient="a@x.org"),
        event(sent, age_ms=900, provider="two", recipient="b@X.org"),
        event(RECIPIENT[Cause.REFUSED], provider="two", recipient="c@y.org", reply="550 no"),
        event(RECIPIENT[Cause.MARKED], provider="two"),
        event("gap"),
    )

    assert sums.everything.counts == {tally.ACCEPTED: 1, tally.SENT: 2, tally.REFUSED: 1}
    assert sums.hops["two"].counts == {tally.SENT: 1, tally.REFUSED: 1}
    assert (sums.domains["x.org"].failures, sums.domains["y.org"].failures) == (0, 1)
    assert sums.domains["y.org"].reply == "550 no"
    assert [age_ms for age_ms, _ in sums.slowest] == [900, 100]
    assert sums.everything.find_age_ms(0.5) == 900
    assert sums.hops["one"].find_age_ms(0.99) == 100
    assert tally.Group().find_age_ms(0.5) is None


def test_narrowed_to_a_next_hop() -> None:
    sent = RECIPIENT[Cause.HANDED_OVER]
    sums = add_up(event(sent, provider="one"), event(sent, provider="two"), next_hop="two")

    assert set(sums.hops) == {"two"}
    assert sums.everything.counts[tally.SENT] == 1


def test_older_than_a_minute_is_forgotten_and_a_short_time_is_not_a_minute() -> None:
    old = event(MESSAGE_ACCEPTED, ago_ms=tally.WINDOW_MS + 1)
    new = event(MESSAGE_ACCEPTED, ago_ms=tally.WINDOW_MS - 1)

    assert add_up(old, new).everything.counts[tally.ACCEPTED] == 1
    assert add_up(new).seconds == 60
    assert add_up(began_ms=NOW_MS - 5_000).seconds == 5
