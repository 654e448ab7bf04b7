from typing import Any

from django.db import migrations, models
from django.db.models import F

from ..apps import get_label


def carry_over(apps: Any, schema_editor: Any) -> None:
    """Give rows their positions: the id `generation-seq` that a client holds stays good.

    A position is the first number of the id << 20 plus the second one, and the generation was milliseconds as well.
    """
    alias = schema_editor.connection.alias
    stored = apps.get_model(get_label(), "StoredEvent").objects.using(alias)
    batch = []
    for event in stored.only("created").iterator(1000):
        event.created_ms = int(event.created.timestamp() * 1000)
        batch.append(event)
        if len(batch) == 1000:
            stored.bulk_update(batch, ["created_ms"], batch_size=250)
            batch.clear()
    stored.bulk_update(batch, ["created_ms"], batch_size=250)
    for state in apps.get_model(get_label(), "LogState").objects.using(alias):
        base = state.generation << 20
        # No two rows meet on the way: every new position is greater than every old `seq`.
        stored.exclude(position=None).update(position=F("position") + base)
        state.head += base
        state.floor += base
        state.trimmed = state.floor
        state.save(using=alias)


def nothing(apps: Any, schema_editor: Any) -> None:
    pass


def forget_all(apps: Any, schema_editor: Any) -> None:
    """Backwards the history is lost: positions have no `generation`."""
    for name in ("StoredEvent", "LogState"):
        apps.get_model(get_label(), name).objects.using(schema_editor.connection.alias).all().delete()


class Migration(migrations.Migration):
    dependencies = [(get_label(), "0001_initial")]

    operations = [
        migrations.CreateModel(
            name="ChannelFloor",
            fields=[
                ("channel", models.CharField(max_length=100, primary_key=True, serialize=False)),
                ("floor", models.BigIntegerField(db_index=True)),
            ],
        ),
        migrations.RenameField("storedevent", "seq", "position"),
        migrations.AddField("storedevent", "created_ms", models.BigIntegerField(default=0)),
        migrations.AddField("logstate", "trimmed", models.BigIntegerField(default=0)),
        migrations.AddField("logstate", "mark", models.CharField(blank=True, default="", max_length=200)),
        migrations.RunPython(carry_over, nothing, elidable=True),
        migrations.RemoveField("logstate", "generation"),
        migrations.AlterField("logstate", "head", models.BigIntegerField()),
        migrations.AlterField("logstate", "floor", models.BigIntegerField()),
        migrations.RemoveField("storedevent", "created"),
        migrations.RenameField("storedevent", "created_ms", "created"),
        migrations.AlterField("storedevent", "created", models.BigIntegerField()),
        migrations.AddIndex("storedevent", models.Index(fields=["channel", "position"], name="events_by_channel")),
        migrations.AddIndex(
            "storedevent",
            models.Index(fields=["id"], name="events_unnumbered", condition=models.Q(position=None)),
        ),
        migrations.RunPython(nothing, forget_all, elidable=True),
    ]
