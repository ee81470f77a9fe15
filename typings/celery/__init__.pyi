"""The part of Celery that Nestor uses. Celery itself has no annotations."""

from collections.abc import Callable, Mapping

class Settings:
    task_serializer: str
    accept_content: list[str]
    def update(self, **options: object) -> None: ...

class WorkController:
    exitcode: int | None
    def start(self) -> None: ...

class Consumer:
    def call_soon(self, operation: Callable[..., object], *args: object) -> object: ...
    def add_task_queue(self, queue: str) -> None: ...
    def cancel_task_queue(self, queue: str) -> None: ...

class Celery:
    conf: Settings
    def __init__(self, main: str, *, broker: str, set_as_current: bool = ...) -> None: ...
    def send_task(
        self, name: str, *, kwargs: Mapping[str, object], ignore_result: bool = ..., queue: str = ...
    ) -> object: ...
    def task(self, function: Callable[..., object], *, name: str) -> object: ...
    def Worker(
        self,
        *,
        pool: str,
        concurrency: int,
        queues: list[str],
        hostname: str,
        quiet: bool,
        without_gossip: bool,
        without_mingle: bool,
    ) -> WorkController: ...
