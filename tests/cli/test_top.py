"""`top`: the last minute on a screen, and its keys."""

from tests.cli.world import Kind, Terminal, World, build_environment


def test_the_last_minute_and_what_the_keys_do(world: World) -> None:
    """T-19: what a server said acts on no terminal."""
    world.attempt(world.submit("ann@good.example"), Kind.ACCEPTED, "250 ok")
    hostile = "550 5.1.1 [red]nobody\x1b]0;evil\x07"
    world.attempt(world.submit("bob@bad.example"), Kind.PERMANENT, hostile)
    environment = build_environment(LINES="50")
    with Terminal(world.command("top"), cwd=world.folder, environment=environment) as terminal:
        shown = terminal.read_until("good.example")
        for said in ("emailerctl top", "s sort: failing", "relay", "[red]nobody"):
            assert said in shown
        assert "\x1b]0;" not in shown
        assert shown.index("bad.example") < shown.index("good.example")
        terminal.type("s")
        terminal.read_until("s sort: sent")
        terminal.type("f")
        terminal.read_until("f next hop: relay")
        terminal.type("p")
        terminal.read_until("HELD")
        terminal.type("q")
        result = terminal.finish()

    assert result.code == 0
    assert result.out.endswith("\x1b[?1049l\x1b[?25h") or "\x1b[?1049l" in result.out


def test_without_a_terminal_it_says_what_to_take(world: World) -> None:
    refused = world.run("top")

    assert refused.code == 2
    assert "status --short" in refused.err
