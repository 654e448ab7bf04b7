"""What is going on, while it goes on."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from sse_demo.compare import arms
from sse_demo.compare.comparison import Watch


@contextmanager
def shown() -> Iterator[Watch]:
    """A line for each arm, on the standard error, so that the report can be kept apart."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TextColumn("{task.fields[stage]}"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        refresh_per_second=4,  # more would cost CPU that is being measured beside it
    ) as progress:

        def watch(name: str) -> arms.Progress:
            for task in progress.tasks:
                if not task.finished:
                    progress.update(task.id, completed=1.0, stage="")
            this = progress.add_task(name, total=1.0, stage="")

            def tell(stage: str, done: float) -> None:
                progress.update(this, completed=min(done, 0.999), stage=stage)

            return tell

        yield watch
        for task in progress.tasks:
            progress.update(task.id, completed=1.0, stage="")
