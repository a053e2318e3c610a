"""Make neoq's tables in the project's own database."""

from __future__ import annotations

from typing import ClassVar

from django.db import migrations, models

from neoq.django.schema import migrate


class Migration(migrations.Migration):
    """The tables are neoq's own: it makes them in a connection of its own, as `neoq migrate` does."""

    initial = True
    atomic = False
    dependencies: ClassVar[list[tuple[str, str]]] = []
    operations: ClassVar[list[migrations.operations.base.Operation]] = [
        migrations.CreateModel(
            name="Job",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                )
            ],
            options={"managed": False, "default_permissions": ("view", "change", "delete")},
        ),
        migrations.RunPython(migrate, migrations.RunPython.noop),
    ]
