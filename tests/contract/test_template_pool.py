"""Rendering processes: what takes too much costs itself, and nobody else anything (T-10)."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec import json

from emailerctl.errors import Invalid, Overloaded
from emailerctl.templates.base import Bundle, Rendered, Variant
from emailerctl.templates.pool import Pool, PoolLimits

pytestmark = pytest.mark.timeout(120)

# A deadline that no busy machine reaches; the processor time is what counts.
LIMITS = PoolLimits(
    workers=2, cpu_ms=60, deadline_s=60, memory_bytes=48 * 2**20, output=100_000
)
TEN = "[1,2,3,4,5,6,7,8,9,0]"
LOOPS = "".join(f"{{% for {name} in {TEN} %}}" for name in "abcdefghijkl")
ENDS = "{% endfor %}" * 12
DOUBLED = "{% set a = 'aaaaaaaaaaaaaaaa' %}" + "{% set a = a ~ a %}" * 40
DIGITS = "9" * 4000

CPU = {
    "nested loops": f"{LOOPS}{{% set x = a + b %}}{ENDS}",
    "nested loops that print": f"{LOOPS}{{{{ '' }}}}{ENDS}",
    "macros that call each other": (
        "{% macro f(n) %}{% if n > 0 %}{% set x = f(n - 1) ~ f(n - 1) %}{% endif %}"
        "{% endmacro %}"
        "{{ f(60) }}"
    ),
    "products without end": (
        "{% macro f(x, n) %}{% if n > 0 %}{{ f(x * x, n - 1) }}{% endif %}{% endmacro %}"
        "{{ f(12345678901234567890, 60) }}"
    ),
    "rounding to a huge place": "{{ 1.5|round(99999999, 'ceil') }}",
    "a loop over the text of loops": "{% set s = 'x'|indent(9000000, true) %}{% for a in s %}"
    "{% for b in s %}{% endfor %}{% endfor %}",
    "sorting inside loops": f"{LOOPS}{{% set x = {TEN}|sort %}}{ENDS}",
    "a recursive loop": (
        f"{{% for a in {TEN} recursive %}}"
        f"{{% set x = loop({TEN}) if loop.depth < 12 else '' %}}"
        "{% endfor %}"
    ),
    "a pattern that backtracks": "",  # its schema below
}
MEMORY = {
    "text doubled": f"{DOUBLED}{{{{ a|length }}}}",
    "an indentation": "{{ 'x'|indent(999999999, true) }}",
    "replacements": (
        "{% set a = 'aaaaaaaa'|replace('a', 'aaaaaaaaaaaaaaaa') %}"
        + "{% set a = a|replace('a', 'aaaaaaaaaaaaaaaa') %}" * 8
        + "{{ a|length }}"
    ),
    "a join": (
        "{% set a = ['x','x','x','x']|join('yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy') %}"
        + "{% set a = a|list|join(a) %}" * 6
        + "{{ a|length }}"
    ),
    "lists added": "{% set a = [1,2,3,4] %}" + "{% set a = a + a %}" * 40 + "{{ a|length }}",
    "a style as pattern": "{{ '2026-11-24'|date('y' ~ 'y'|indent(99999999, true)) }}",
}
OUTPUT = {
    "loops that print": f"{LOOPS}{{{{ a }}}}{ENDS}",
    "a long text": "{{ 'x'|indent(200000, true) }}",
    "text between loops": f"{LOOPS}a line of text that is long enough\n{ENDS}",
}
DEPTH = {
    "a macro that calls itself": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "macros that call in turn": (
        "{% macro f() %}{{ g() }}{% endmacro %}{% macro g() %}{{ f() }}{% endmacro %}{{ g() }}"
    ),
    "a file that includes itself": "{% include 'body.html' %}",
    "brackets": "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
    "lists in lists": "{{ " + "[" * 3000 + "]" * 3000 + " }}",
    "blocks in blocks": "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
    "signs": "{{ " + "-" * 100_000 + "1 }}",
}
BOMBS = {**CPU, **MEMORY, **OUTPUT, **DEPTH}


def build(source: str, **more: object) -> bytes:
    sources = {"subject.txt": "Hello", "body.html": source}
    bundle = Bundle(variants={"": Variant("subject.txt", "body.html")}, sources=sources, **more)  # type: ignore[arg-type]
    return json.encode(bundle)


GOOD = build("<p>Hello</p>")


def build_bomb(name: str) -> tuple[bytes, dict[str, object]]:
    if name == "a pattern that backtracks":
        schema = {
            "type": "object",
            "properties": {"a": {"type": "string", "pattern": "(x+x+)+y"}},
        }
        return build("x", schema=schema), {"a": "x" * 60}
    return build(BOMBS[name]), {}


@pytest.fixture
async def pool(request: pytest.FixtureRequest) -> AsyncIterator[Pool]:
    is_measured = getattr(request, "param", "CPU") == "CPU"
    made = Pool(LIMITS if is_measured else replace(LIMITS, cpu_ms=20_000))
    yield made
    await made.close()


async def render(
    pool: Pool, bundle: bytes = GOOD, lane: str = "good", **more: object
) -> Rendered:
    return await pool.render(str(hash(bundle)), bundle, more, "", lane)


@pytest.mark.parametrize(
    ("kind", "pool"),
    [(kind, kind) for kind in ("CPU", "MEMORY", "OUTPUT", "DEPTH")],
    indirect=["pool"],
)
async def test_a_bomb_costs_its_own_request_and_nobody_else(pool: Pool, kind: str) -> None:
    """T-10: each ends, is refused with its reason, and between them good ones are rendered."""
    for name in globals()[kind]:
        bundle, variables = build_bomb(name)
        with pytest.raises(Invalid) as caught:
            await render(pool, bundle, lane=name, **variables)
        said = caught.value.detail
        expected = {
            "CPU": "60 ms of processor time",
            "MEMORY": "48 MiB of memory",
            "OUTPUT": "100000 characters",
        }.get(kind, "")
        assert expected in said, (name, said)
        assert (await render(pool)).html == "<p>Hello</p>"


async def test_one_lane_of_bombs_never_has_all_workers(pool: Pool) -> None:
    """T-10: those of one sender wait for each other; a good one finds a free worker."""
    bundle, _ = build_bomb("nested loops")
    with pytest.raises(Invalid):
        await render(pool, bundle, lane="bad")
    bombs = [asyncio.create_task(render(pool, bundle, lane="bad")) for _ in range(10)]
    await asyncio.sleep(0)
    for bomb in bombs[3:]:
        bomb.cancel()
    refused = await asyncio.gather(*bombs[8:], return_exceptions=True)
    bombs = bombs[:3]
    most_busy = 0
    for _ in range(20):
        assert (await render(pool)).html == "<p>Hello</p>"
        most_busy = max(most_busy, len(pool._busy))

    assert [type(one) for one in refused] == [Overloaded] * 2  # its line is short
    assert most_busy <= 1
    found = await asyncio.gather(*bombs, return_exceptions=True)
    assert all(isinstance(one, Invalid) for one in found)


async def test_a_killed_worker_is_replaced_and_the_job_done_again(pool: Pool) -> None:
    await render(pool)
    (process,) = pool._idle
    os.kill(process._process.pid, signal.SIGKILL)

    assert (await render(pool)).html == "<p>Hello</p>"


async def test_what_is_not_done_in_time_is_refused_for_now() -> None:
    """Not the sender's fault: 503."""
    hurried = Pool(PoolLimits(cpu_ms=60_000, deadline_s=0.3))
    bundle, _ = build_bomb("nested loops")
    with pytest.raises(Overloaded):
        await render(hurried, bundle)
    await hurried.close()


async def test_too_many_waiting_are_refused() -> None:
    full = Pool(PoolLimits(waiting=1))
    first = asyncio.create_task(render(full))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await render(full)
    await first
    await full.close()


async def test_a_worker_knows_nothing_and_can_do_nothing(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T-09, T-10: what an escape would find."""
    monkeypatch.setenv("EMAILER_API__PORT", "1")
    await render(pool)
    (process,) = pool._idle
    folder = Path(f"/proc/{process._process.pid}")
    limits = {
        line[:25].strip(): line[25:].split()[:2]
        for line in (folder / "limits").read_text().splitlines()[1:]
    }

    assert b"EMAILER" not in (folder / "environ").read_bytes()
    assert limits["Max processes"] == ["0", "0"]
    assert limits["Max file size"] == ["0", "0"]
    assert limits["Max core file size"] == ["0", "0"]
    assert limits["Max address space"][0] != "unlimited"
    assert not [fd for fd in (folder / "fd").iterdir() if "emailer.db" in str(fd.readlink())]


async def test_workers_end_with_their_program(pool: Pool) -> None:
    await render(pool)
    (process,) = pool._idle
    await pool.close()

    assert process._process.returncode is not None
