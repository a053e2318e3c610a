"""A job as Django's permissions and admin know it; the jobs themselves are in neoq's own tables."""

from __future__ import annotations

from django.db import models


class Job(models.Model):
    """A background job: it has permissions and pages, and no table of Django's."""

    class Meta:
        """No table, and no permission to add: jobs are enqueued."""

        managed = False
        default_permissions = ("view", "change", "delete")
