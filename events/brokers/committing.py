"""The commit of the transaction around a call: nothing of ours comes out of it, no hook of others prevents it."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile

from django.db import connections, transaction


@dataclass(frozen=True)
class _Hook:
    work: Callable[[], object]
    failed: Callable[[Exception], object]

    def __call__(self) -> None:
        try:
            self.work()
        except Exception as error:  # noqa: BLE001  the caller has committed, and their hooks go on
            self.failed(error)


def on_commit(work: Callable[[], object], failed: Callable[[Exception], object], database: str) -> None:
    """Do the work when the transaction around the call commits; what it raises goes to `failed`.

    It comes before the hooks of others, as Django drops the hooks that follow one that raises.
    """
    transaction.on_commit(_Hook(work, failed), using=database, robust=True)
    connection = connections[database]
    hooks = connection.run_on_commit
    # A TestCase never commits, and captures hooks by where they stand.
    is_test = any(getattr(block, "_from_testcase", False) for block in connection.atomic_blocks)
    if hooks and not is_test:
        ours = sum(1 for _ in takewhile(lambda hook: isinstance(hook[1], _Hook), hooks))
        if ours < len(hooks):
            hooks.insert(ours, hooks.pop())
