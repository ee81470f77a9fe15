"""Runs the server until it receives SIGINT or SIGTERM: in this process, or in several that share the port."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import resource
import shutil
import signal
import socket
import tempfile
import threading
from multiprocessing.process import BaseProcess

import uvicorn
from fastapi import FastAPI
from uvicorn.supervisors import Multiprocess

from nestor_server.app import create_app, validate
from nestor_server.connection import Connection
from nestor_server.observability import logs, metrics
from nestor_server.settings import Settings
from nestor_server.settings import settings as from_environment

SHUTDOWN_SECONDS = 5  # time for running requests to finish
HEALTHCHECK_SECONDS = 60  # a process that does not answer its parent for this long is replaced
MANY_FILES = 65_536
HEAPS = 2  # of the C library, which has one per thread otherwise; each keeps what its largest answer took
M_ARENA_MAX = -8  # of glibc's mallopt
BACKLOG = 4096  # connections that the kernel accepts for the server; all clients reconnect after a restart


def serve(*, host: str | None = None, port: int | None = None, workers: int | None = None) -> None:
    """Serve with the settings of the environment; the arguments override them.

    Raises:
        DatabaseUnusable, SettingInvalid, MissingExtra, InvalidInput: a setting cannot be used.
    """
    given = {"host": host, "port": port, "server_workers": workers}
    settings = from_environment().model_copy(update={name: value for name, value in given.items() if value is not None})
    validate(settings)  # here, where an error is a sentence
    logs.configure(settings.log_format)
    _allow_many_files()
    config = uvicorn.Config(
        "nestor_server.serve:application",
        factory=True,
        host=settings.host,
        port=settings.port,
        workers=settings.server_workers,
        http=Connection,
        ws="none",  # no route has WebSockets
        forwarded_allow_ips=settings.trusted_proxies,
        root_path=settings.root_path,
        backlog=BACKLOG,
        access_log=False,  # the middleware logs each request with its id
        log_config=None,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        timeout_worker_healthcheck=HEALTHCHECK_SECONDS,
    )
    listening = config.bind_socket()
    _disconnect_stalled(listening, settings)
    if settings.server_workers == 1:
        uvicorn.Server(config).run([listening])
    else:
        with tempfile.TemporaryDirectory(prefix="nestor-metrics-") as shared:
            os.environ[metrics.DIRECTORY] = shared
            Multiprocess(config, [listening]).run()


def application() -> FastAPI:
    """What each process serves."""
    if (parent := multiprocessing.parent_process()) is not None:
        logs.configure(from_environment().log_format)
        metrics.share(os.environ[metrics.DIRECTORY])
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()
    _share_heaps()
    app = create_app()
    gc.collect()
    gc.freeze()  # what stays for good is not looked at again: that took 150 ms each time, in which no request goes on
    return app


def _share_heaps() -> None:
    """Let threads reuse memory that others freed: the server grew half as fast in the soak of `benchmarks.server`."""
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):  # only glibc has it
        mallopt(M_ARENA_MAX, HEAPS)


def _end_after(parent: BaseProcess) -> None:
    """A parent that was killed could not end its children, which would hold the port, nor remove their metrics."""
    parent.join()
    shutil.rmtree(os.environ[metrics.DIRECTORY], ignore_errors=True)
    os.kill(os.getpid(), signal.SIGTERM)


def _allow_many_files() -> None:
    """Each connection is an open file, and many systems allow 1,024 unless a process asks for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = MANY_FILES if hard == resource.RLIM_INFINITY else min(hard, MANY_FILES)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


def _disconnect_stalled(listening: socket.socket, settings: Settings) -> None:
    """Let the kernel end connections whose client does not read. Connections inherit this; only Linux has it."""
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * settings.stall_seconds))
