"""The tables of the `db:` broker; events/brokers/database.py says how they are used.

A position is milliseconds since the epoch << 20 | a number within the millisecond. All times are milliseconds in
integers, so that neither USE_TZ nor a time zone changes what they mean.
"""

from django.db import models


class StoredEvent(models.Model):
    """One event. It has no position between the commit that made it durable and the moment when it is numbered."""

    id = models.BigAutoField(primary_key=True)
    position = models.BigIntegerField(null=True, unique=True)
    channel = models.CharField(max_length=100)
    type = models.CharField(max_length=64)
    data = models.TextField()
    created = models.BigIntegerField()  # milliseconds since the epoch, by the clock of the process that numbered it

    class Meta:
        indexes = (
            models.Index(fields=["channel", "position"], name="events_by_channel"),
            # Every publish asks whether there is any; without this index PostgreSQL may read the whole table for it.
            models.Index(fields=["id"], name="events_unnumbered", condition=models.Q(position=None)),
        )

    def __str__(self) -> str:
        return f"{self.position} {self.channel} {self.type}"


class LogState(models.Model):
    """The one row that every numbering locks. All fields but `mark` are positions."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    head = models.BigIntegerField()  # of the newest event; no later one is ever given an earlier position
    floor = models.BigIntegerField()  # a cursor before it is a gap, whatever the channel
    trimmed = models.BigIntegerField(default=0)  # of the newest event that was ever trimmed
    mark = models.CharField(max_length=200, default="", blank=True)  # which store holds this history

    def __str__(self) -> str:
        return f"{self.floor} to {self.head}"


class ChannelFloor(models.Model):
    """The position of the newest event that was trimmed from a channel: a cursor before it is a gap there."""

    channel = models.CharField(max_length=100, primary_key=True)
    floor = models.BigIntegerField(db_index=True)

    def __str__(self) -> str:
        return f"{self.channel}: {self.floor}"
