"""The signals that Nestor's worker listens to."""

from collections.abc import Callable

class Signal:
    def connect(self, receiver: Callable[..., object], *, weak: bool = ...) -> object: ...

setup_logging: Signal
worker_ready: Signal
worker_shutting_down: Signal
