"""Where the pages are."""

from __future__ import annotations

from django.urls import path

from shop import views

urlpatterns = [
    path("", views.page),
    path("signup", views.signup),
    path("order", views.order),
    path("photo", views.photo),
    path("job/<int:job_id>", views.progress),
]
