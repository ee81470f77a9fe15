"""The Celery application of a worker: one thread per slot, and a flag that SIGTERM sets."""

from __future__ import annotations

import logging
import os
import sys
import threading
import warnings
from typing import TYPE_CHECKING

from celery import signals
from celery.platforms import SecurityWarning

from nestor_server.database import make_engine, make_sessions, worker_limits
from nestor_server.models import Worker
from nestor_server.observability import traces
from nestor_server.scheduling.task_queue import RUN_TRIAL, celery_app, queue_of
from nestor_server.settings import Settings
from nestor_server.storage import object_store
from nestor_worker import containment, forks, workdir
from nestor_worker.containment import process
from nestor_worker.options import Options, cores
from nestor_worker.supervisor import entry_points
from nestor_worker.supervisor.attempt import Slot
from nestor_worker.supervisor.blob_cache import BlobCache
from nestor_worker.supervisor.heartbeat import Presence
from nestor_worker.supervisor.references import Roots
from nestor_worker.supervisor.runners.fork_server import ForkServer
from nestor_worker.supervisor.runners.process import environment
from nestor_worker.supervisor.runners.standby import Standby
from nestor_worker.supervisor.tally import Tally
from nestor_worker.supervisor.task import Tasks

if TYPE_CHECKING:
    from celery import Consumer  # as typings/celery has it

log = logging.getLogger(__name__)


def serve(settings: Settings, options: Options) -> int:
    """Run trials until SIGTERM or SIGINT, then checkpoint and requeue the running ones. Returns the exit code.

    Raises:
        MissingExtra, InvalidInput: `NESTOR_BLOB_URL`, `NESTOR_TRACES`, `NESTOR_DEVICES_PER_TRIAL` or
            `NESTOR_DATA_ROOTS` cannot be used.
    """
    process.hide_memory()  # it has passwords, which runners of the same account must not read
    traces.start(settings, "nestor-worker")
    if settings.blob_url is not None:
        object_store.open_store(settings.blob_url)  # fails now instead of at the first large checkpoint
    workdir.remove_orphans()
    fork_server = _fork_server(options)
    slots = _slots(options, fork_server)
    engine = make_engine(settings, f"nestor-worker {os.getpid()}", limits=worker_limits(settings))
    sessions = make_sessions(engine, settings)
    offers = entry_points.installed()
    devices = {slot.name: ", ".join(slot.devices) for slot in slots}
    queues = [queue_of(None), *(queue_of(name) for name, info in offers.items() if info.error is None)]

    def on_drain(drains: bool) -> None:
        """Leave messages to other workers while this one drains."""
        log.info("worker %s %s", _worker_id(), "drains: it takes no more trials" if drains else "takes trials again")
        for consumer in consumers:
            for queue in queues:
                consumer.call_soon(consumer.cancel_task_queue if drains else consumer.add_task_queue, queue)

    consumers: list[Consumer] = []  # one, once the worker is ready
    presence = Presence(sessions, settings, devices, offers, slots[0].tally, on_drain)
    draining = threading.Event()
    standby = Standby(enabled=options.standby)
    tasks = Tasks(sessions, settings, slots, standby, presence, draining, offers)

    app = celery_app(settings)
    app.task(tasks.run_trial, name=RUN_TRIAL)

    def on_shutdown(**_: object) -> None:
        draining.set()

    def on_ready(sender: Consumer, **_: object) -> None:
        consumers.append(sender)
        presence.start()  # not before: a worker that does not reach the broker takes no trial
        used = ", ".join(sorted({device for slot in slots for device in slot.devices}))
        log.info("worker %s is ready: %d concurrent trial(s) on %s", _worker_id(), len(slots), used)
        _log_walls(options)

    def on_setup_logging(**_: object) -> None:
        """Do nothing: because this listener exists, Celery leaves logging as it is."""

    # Celery sends it before it waits for its tasks, so they have time to write checkpoints.
    signals.worker_shutting_down.connect(on_shutdown, weak=False)
    signals.worker_ready.connect(on_ready, weak=False)
    signals.setup_logging.connect(on_setup_logging, weak=False)
    sys.__stdout__ = None  # where Celery prints how it shuts down, in no form that a log has
    # Celery warns because pickled messages are dangerous for root. Our messages are JSON.
    warnings.simplefilter("ignore", SecurityWarning)

    if fork_server is not None:
        fork_server.start()
    for slot in slots:
        standby.prepare(slot)
    worker = app.Worker(
        pool="threads",
        concurrency=len(slots),
        queues=queues,
        hostname=f"nestor@{_worker_id()}",
        quiet=True,
        without_gossip=True,
        without_mingle=True,
    )
    worker.start()
    log.info("worker %s ends", _worker_id())
    if fork_server is not None:
        fork_server.close()  # first: waiting runners may not exist before it has loaded everything
    standby.close()
    presence.stop()
    traces.stop()
    engine.dispose()
    return worker.exitcode or 0


def _log_walls(options: Options) -> None:
    if not options.contain:
        log.warning("NESTOR_CONTAIN=false: trials have all rights of this worker's account")
        return
    for wall in containment.walls():
        log.log(logging.INFO if wall.stands else logging.WARNING, "%s", wall)


def _fork_server(options: Options) -> ForkServer | None:
    """The fork server of this worker; None on GPUs, whose driver does not survive a fork."""
    on_cpu = all(device == "cpu" for slot in options.slots for device in slot)
    if not (options.standby and on_cpu and forks.can_fork()):
        return None
    return ForkServer(lambda home: environment(home, threads=_threads(options), device="cpu"))


def _threads(options: Options) -> int:
    """The number of threads of a trial on each of its devices."""
    # If the threads of two trials compete for a core, both become many times slower, not twice.
    trials = options.worker_count * len(options.slots)
    return options.threads or max(1, cores() // (trials * options.devices_per_trial))


def _slots(options: Options, fork_server: ForkServer | None) -> list[Slot]:
    slots, threads = options.slots, _threads(options)
    cache, roots, tally = BlobCache(options.cache_dir, options.cache_bytes), Roots.of(options.data_roots), Tally()
    names = [_worker_id()] if len(slots) == 1 else [f"{_worker_id()}/{i}" for i in range(len(slots))]
    return [
        Slot(
            name,
            devices,
            threads,
            options.checkpoint_seconds,
            cache,
            options.trial_memory,
            options.silence_seconds,
            roots,
            fork_server,
            tally,
            options.contain,
        )
        for name, devices in zip(names, slots, strict=True)
    ]


def _worker_id() -> str:
    return Worker.id_of(os.getpid())
