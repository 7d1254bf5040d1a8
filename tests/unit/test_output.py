"""What leaves the program: text made safe (T-19), JSON, forms, colours, moments."""

import io
import json
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emailerctl.cli import output
from emailerctl.cli.output import Form, Moment, ago, safe, safe_lines
from emailerctl.core.doctor import Verdict
from emailerctl.models.lifecycle import State

HOSTILE = [
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "\x9b2J",
    "a\x08b\x7f",
    "\u202egnp.exe",
    "\u2066isolate\u2069",
    "\u200fright",
    "zero\u200bwidth",
    "\ud800half",
    "tag\U000e0041",
    "line\u2028break",
    "two\r\nlines",
]


class Stream(io.StringIO):
    """A stream that says whether it is a terminal."""

    def __init__(self, *, is_terminal: bool = False) -> None:
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "_manner", output._Manner())
    for name in ("NO_COLOR", "FORCE_COLOR", "CLICOLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")


def put_before(monkeypatch: pytest.MonkeyPatch, *, is_terminal: bool) -> Stream:
    """Put a stream before the module alone: the real one is being captured."""
    stream = Stream(is_terminal=is_terminal)
    monkeypatch.setattr(output, "sys", SimpleNamespace(stdout=stream, stderr=Stream()))
    return stream


@pytest.fixture
def stdout(monkeypatch: pytest.MonkeyPatch) -> Stream:
    return put_before(monkeypatch, is_terminal=False)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Stream:
    return put_before(monkeypatch, is_terminal=True)


def find_dangerous(text: str) -> list[str]:
    return [c for c in text if not c.isprintable() and c not in "\n\t\u200c\u200d"]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_text_is_one_line_without_anything_that_acts(text: str) -> None:
    """T-19."""
    assert find_dangerous(safe(text)) == []
    assert "\n" not in safe(text)


@given(st.text())
def test_no_control_escape_or_override_passes(text: str) -> None:
    made_safe = safe(text)

    assert not any(ord(c) < 0x20 or 0x7F <= ord(c) <= 0x9F for c in made_safe)
    assert not any(0x202A <= ord(c) <= 0x202E or 0x2066 <= ord(c) <= 0x2069 for c in made_safe)
    made_safe.encode()  # no half of a surrogate pair


@pytest.mark.parametrize(
    "text", ["Grüße", "Здравствуйте", "你好", "👩‍👩‍👧", "می‌خواهم", "[red]x[/red]"]
)
def test_what_people_write_stays_as_it_is(text: str) -> None:
    assert safe(text) == text


def test_lines_stay_lines() -> None:
    assert safe_lines("a\r\nb\x1b\n\tc") == "a\nb\ufffd\n c"


@pytest.mark.parametrize("text", HOSTILE)
def test_json_escapes_what_could_act_and_means_the_same(text: str, stdout: Stream) -> None:
    output.write_json({"subject": text, "name": "Jörg"})

    written = stdout.getvalue()
    assert find_dangerous(written) == []
    assert written.count("\n") == 1
    assert "Jörg" in written
    assert json.loads(written)["subject"] == text


def test_json_is_indented_for_people_alone(terminal: Stream) -> None:
    output.write_json({"a": 1})
    output.write_json({"a": 1}, is_line=True)

    assert terminal.getvalue() == '{\n  "a": 1\n}\n{"a":1}\n'


def test_a_table_on_a_pipe_is_separated_by_tabs_and_whole(stdout: Stream) -> None:
    long = "x" * 500
    output.table("Things", ("id", "what"), [["1", f"a\tb\x1b{long}"], ["2", None]])

    assert stdout.getvalue() == f"id\twhat\n1\ta b\ufffd{long}\n2\t\n"


def test_a_table_on_a_terminal_shows_markup_as_text(terminal: Stream) -> None:
    output.table(
        "Things", ("subject",), [["[bold]x[/bold] [link=http://e.org]y[/link] :smile:"]]
    )

    assert "[bold]x[/bold] [link=http://e.org]y[/link] :smile:" in terminal.getvalue()


def test_an_id_is_never_broken_in_a_table(
    terminal: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    output.table("Things", ("id", "subject"), [["msg_1C6K9Q2M7XW4T", "word " * 30]])

    assert "msg_1C6K9Q2M7XW4T" in terminal.getvalue()


def test_an_empty_table_says_so_to_people(terminal: Stream) -> None:
    output.table("Things", ("id",), [])

    assert terminal.getvalue() == "Things: none\n"


@pytest.mark.parametrize(
    ("form", "written"),
    [
        (Form.JSON, '{"data":[{"id":"a","n":1}],"next_cursor":"c"}\n'),
        (Form.JSONL, '{"id":"a","n":1}\n'),
        (Form.ID, "a\n"),
        (Form.TABLE, "id\tn\na\t1\n"),
    ],
)
def test_a_listing_has_four_forms(form: Form, written: str, stdout: Stream) -> None:
    output.setup(form=form)
    output.listing(
        "Things",
        ("id", "n"),
        [("a", 1)],
        shape=lambda one: {"id": one[0], "n": one[1]},
        row=lambda one: [one[0], one[1]],
        next_cursor="c",
    )

    assert stdout.getvalue() == written


@pytest.mark.parametrize(
    ("environment", "is_terminal", "has_colour"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"NO_COLOR": "1"}, True, False),
        ({"NO_COLOR": ""}, True, True),
        ({"CLICOLOR": "0"}, True, False),
        ({"TERM": "dumb"}, True, False),
        ({"FORCE_COLOR": "1"}, False, True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, True, False),
        ({"FORCE_COLOR": "0"}, False, False),
    ],
)
def test_colours_are_for_those_who_want_them(
    environment: dict[str, str],
    is_terminal: bool,
    has_colour: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert output.is_coloured(Stream(is_terminal=is_terminal)) is has_colour


def test_no_color_wins_over_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    output.setup(has_colour=False)

    assert not output.is_coloured(Stream(is_terminal=True))


def test_every_state_has_a_colour() -> None:
    assert set(output.COLOURS) == {*State, *Verdict}


@pytest.mark.parametrize(
    ("distance_ms", "text"),
    [
        (0, "now"),
        (400, "now"),
        (3_000, "3s ago"),
        (119_000, "119s ago"),
        (3 * 60_000, "3m ago"),
        (5 * 3_600_000, "5h ago"),
        (3 * 86_400_000, "3d ago"),
        (-7_200_000, "in 2h"),
    ],
)
def test_a_distance_has_one_unit(distance_ms: int, text: str) -> None:
    assert ago(1_000_000_000 - distance_ms, 1_000_000_000) == text


def test_a_moment_is_relative_for_people_and_exact_for_programs(
    stdout: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert output.show_moment(Moment(1_000, 4_000)) == "1970-01-01T00:00:01.000Z"
    assert output.show_moment(Moment(None, 4_000)) == ""
    put_before(monkeypatch, is_terminal=True)
    assert output.show_moment(Moment(1_000, 4_000)) == "3s ago"
