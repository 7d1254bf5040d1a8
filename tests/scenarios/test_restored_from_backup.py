"""A store that is put back to what it was some time ago."""

import subprocess
import sys
from pathlib import Path

from emailerctl.models.lifecycle import State
from tests.scenarios.world import World, create_world
from tests.smtpd.fixture import SmtpServer


def restore(world: World, saved: Path) -> None:
    """Run `store restore` as an operator would, both daemons being stopped."""
    command = [sys.executable, "-m", "emailerctl", "--config", str(world.config), "--yes"]
    subprocess.run([*command, "store", "restore", str(saved)], check=True, timeout=60)


async def test_nothing_is_sent_again(tmp_path: Path, relay: SmtpServer) -> None:
    """P2: what was queued in the backup went out since; it is in doubt, and stays so."""
    saved = tmp_path / "saved.db"
    overrides = {"retry.schedule": ["1s"]}
    async with create_world(tmp_path / "world", {"relay": relay}, overrides) as world:
        before = [await world.submit(world.address()) for _ in range(20)]
        policy = await world.submit(world.address(), on_unknown="resend")
        consumer = await world.start_consumer()
        late = [await world.submit(world.address("tempfail-once")) for _ in range(20)]
        await world.cli("store", "backup", str(saved))  # while it delivers
        for message_id in (*before, *late, policy):
            await world.until(message_id, State.SENT)
        after = await world.submit(world.address())
        await world.until(after, State.SENT)
        consumer.end()

    restore(world, saved)

    async with create_world(tmp_path / "world", {"relay": relay}, overrides) as world:
        await world.start_consumer()
        await world.let_others_pass()
        views = [await world.load(message_id) for message_id in (*before, *late, policy)]
        assert {view.state for view in views} <= {State.SENT, State.UNKNOWN}
        copies = [world.copies(view.recipients[0].address) for view in views]
        assert copies == [1] * len(copies)
        await world.check()
