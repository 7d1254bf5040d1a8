"""What the whole suite shares: time, settings of a throw-away store, the app, tokens."""

import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis

from emailerctl import wiring
from emailerctl.core import tokens
from emailerctl.settings import Settings, load
from emailerctl.store import migrations
from emailerctl.wiring import App
from tests.fakes import FakeClock

# A shell starts what runs in the background with SIGINT ignored, and so would be what we start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Nothing is said about time in tests: the machine has other work.
hypothesis.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis.load_profile("busy")

MakeToken = Callable[..., Awaitable[tokens.Minted]]


def build_settings(folder: Path, **overrides: str) -> Settings:
    """Return settings of a store in *folder*; `api__port="0"` stands for `api.port`."""
    said = {
        "store.url": f"sqlite:///{folder / 'emailer.db'}",
        "providers.relay.kind": "smtp",
        "providers.relay.host": "127.0.0.1",
        "providers.relay.port": "2525",
        "providers.relay.tls": "none",
        "routing.default": "relay",
        "api.port": "0",
    }
    said |= {name.replace("__", "."): value for name, value in overrides.items()}
    environ = {
        f"EMAILER_{key.upper().replace('.', '__')}": value for key, value in said.items()
    }
    return load(environ=environ)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def rng() -> Random:
    return Random(1)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Return settings of a store that is there, and empty."""
    settings = build_settings(tmp_path)
    migrations.migrate(settings.store.path)
    return settings


@pytest.fixture
async def app(settings: Settings, clock: FakeClock, rng: Random) -> AsyncIterator[App]:
    async with wiring.open_app(settings, clock=clock, rng=rng) as app:
        yield app


@pytest.fixture
def token(app: App) -> MakeToken:
    """Make tokens: `await token("shop", "send", "read")`."""

    async def make(name: str = "shop", *scopes: str, **more: object) -> tokens.Minted:
        wanted = scopes or ("send", "read")
        return await tokens.create(
            app.store,
            app.clock,
            app.rng,
            name=name,
            scopes=wanted,
            **more,  # type: ignore[arg-type]
        )

    return make
