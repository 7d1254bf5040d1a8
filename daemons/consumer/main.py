"""Open the app, register, and deliver until told to stop."""

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable
from datetime import timedelta

from daemons.consumer.lease import Lease, is_lock_free
from daemons.consumer.loop import Loop
from daemons.run import Signals, notify_ready, notify_stopping, run_loop
from daemons.watch import Watch
from emailerctl import log
from emailerctl.core.clockwatch import ClockWatch
from emailerctl.core.deliver import Delivery
from emailerctl.core.standing import Standing
from emailerctl.core.sweep import Sweep
from emailerctl.models.clock import boot_id, to_ms
from emailerctl.models.ids import build_lease_token, to_public
from emailerctl.queues.bell import Listener
from emailerctl.queues.embedded import EmbeddedQueue
from emailerctl.settings import Settings
from emailerctl.wiring import App, open_app
