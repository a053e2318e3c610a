"""``path("jobs/", include("neoq.django.urls"))`` shows the dashboard to the staff of a project."""

from __future__ import annotations

from neoq.django.dashboard import urls_of

urlpatterns = urls_of()
