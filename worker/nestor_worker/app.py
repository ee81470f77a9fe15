"""The Celery application of a worker: one thread for each slot, and a flag that SIGTERM raises."""

from __future__ import annotations

import logging
import os
import socket
import threading
import warnings

from celery import signals
from celery.platforms import SecurityWarning

from nestor_server.database import make_engine, make_sessions
from nestor_server.scheduling.task_queue import RUN_TRIAL, celery_app
from nestor_server.settings import Settings
from nestor_server.storage import object_store
from nestor_worker import workdir
from nestor_worker.options import Options, cores
from nestor_worker.supervisor.attempt import Slot
from nestor_worker.supervisor.blob_cache import Cache
from nestor_worker.supervisor.heartbeat import Presence
from nestor_worker.supervisor.prewarmed import Standby
from nestor_worker.supervisor.task import Tasks

log = logging.getLogger(__name__)


def serve(settings: Settings, options: Options) -> int:
    """Run trials until SIGTERM or SIGINT; those that run then are checkpointed and given back. The exit code."""
    if settings.blob_url is not None:
        object_store.open_store(
            settings.blob_url
        )  # what cannot be used is refused now, not with the first large checkpoint
    slots = _slots(options)
    engine = make_engine(settings, f"nestor-worker {os.getpid()}")
    sessions = make_sessions(engine, settings)
    presence = Presence(sessions, settings, {slot.name: ", ".join(slot.devices) for slot in slots})
    draining = threading.Event()
    standby = Standby(enabled=options.standby)
    tasks = Tasks(sessions, settings, slots, standby, presence, draining)

    app = celery_app(settings)
    app.task(tasks.run_trial, name=RUN_TRIAL)
    # At once, while Celery still waits for its tasks: with plain SIGTERM and threads it comes in time to checkpoint.
    signals.worker_shutting_down.connect(lambda **_: draining.set(), weak=False)

    on = ", ".join(sorted({device for slot in slots for device in slot.devices}))
    ready = f"worker {_me()} is ready: {len(slots)} trial(s) at a time on {on}"
    signals.worker_ready.connect(lambda **_: log.info(ready), weak=False)
    signals.setup_logging.connect(lambda **_: None, weak=False)  # a listener: Celery leaves logging as it is
    # Root in a container is no danger here: the warning is about pickles in messages, and ours are JSON.
    warnings.simplefilter("ignore", SecurityWarning)

    workdir.sweep()
    presence.start()
    for slot in slots:
        standby.prepare(slot)
    worker = app.Worker(
        pool="threads",
        concurrency=len(slots),
        hostname=f"nestor@{_me()}",
        quiet=True,
        without_gossip=True,
        without_mingle=True,
    )
    worker.start()
    standby.close()
    presence.stop()
    engine.dispose()
    return worker.exitcode or 0


def _slots(options: Options) -> list[Slot]:
    slots = options.slots
    # Threads of two trials that compete for one core make both many times slower, not twice.
    threads = options.threads or max(1, cores() // (len(slots) * options.devices_per_trial))
    cache = Cache(options.cache_dir, options.cache_bytes)
    names = [_me()] if len(slots) == 1 else [f"{_me()}/{i}" for i in range(len(slots))]
    return [
        Slot(name, devices, threads, options.checkpoint_seconds, cache, options.memory_bytes, options.silence_seconds)
        for name, devices in zip(names, slots, strict=True)
    ]


def _me() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"
