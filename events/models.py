"""The tables of the `db:` broker; events/brokers/database.py says how they are used."""

from django.db import models
from django.utils import timezone


class StoredEvent(models.Model):
    """One event. It has no `seq` between the commit that made it visible and the moment when it is given its place."""

    id = models.BigAutoField(primary_key=True)
    seq = models.BigIntegerField(null=True, unique=True)
    channel = models.CharField(max_length=100)
    type = models.CharField(max_length=64)
    data = models.TextField()
    created = models.DateTimeField(default=timezone.now)

    def __str__(self) -> str:
        return f"{self.seq} {self.channel} {self.type}"


class LogState(models.Model):
    """The one row that every numbering locks. The events with `floor < seq <= head` are kept, all of them."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    generation = models.BigIntegerField()  # milliseconds since the epoch when the log began
    head = models.BigIntegerField(default=0)
    floor = models.BigIntegerField(default=0)

    def __str__(self) -> str:
        return f"{self.generation}: {self.floor} to {self.head}"
