"""The pages: they answer at once and leave the work to background jobs."""

from __future__ import annotations

from collections.abc import Callable

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import OperationalError, transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET, require_POST

import neoq
import neoq.django
from shop import tasks
from shop.models import Order, Person


class Declined(Exception):
    """The bank refuses the payment."""


@require_GET
def page(request: HttpRequest) -> HttpResponse:
    return render(request, "page.html", {"orders": Order.objects.order_by("-pk")[:10]})


@require_POST
def signup(request: HttpRequest) -> HttpResponse:
    email = request.POST["email"].strip().lower()
    try:
        validate_email(email)
    except ValidationError:
        return JsonResponse({"error": "an email address, please"}, status=400)
    with transaction.atomic():
        _, is_new = Person.objects.get_or_create(email=email)
        if is_new:
            tasks.welcome.enqueue(email=email)
    return JsonResponse({"new": is_new}, status=202)


@require_POST
def order(request: HttpRequest) -> HttpResponse:
    try:
        # The order and the job that sends its invoice are committed together, or neither is.
        with transaction.atomic():
            added = Order.objects.create(email=request.POST["email"], item=request.POST["item"])
            tasks.invoice.enqueue(order=added.pk)
            if request.POST.get("card") == "declined":
                raise Declined
    except Declined:
        return JsonResponse({"error": "the card was declined, and nothing was ordered"}, status=402)
    return JsonResponse({"order": added.pk}, status=202)


@require_POST
def photo(request: HttpRequest) -> HttpResponse:
    path = settings.DATA / f"photo-{request.POST['name']}"
    if path.parent != settings.DATA or path.suffix not in {".png", ".jpg"}:
        return JsonResponse({"error": "a plain name that ends in .png or .jpg, please"}, status=400)
    with path.open("wb") as file:
        for chunk in request.FILES["photo"].chunks():
            file.write(chunk)
    return JsonResponse({"job": tasks.thumbnails.enqueue(path.name).id}, status=202)


@require_GET
def progress(request: HttpRequest, job_id: int) -> HttpResponse:
    job = neoq.django.backend().get(job_id)
    if job is None:
        return JsonResponse({"error": "no such job"}, status=404)
    done, message = job.progress() or (0.0, "")
    return JsonResponse({"status": job.status, "done": done, "message": message, "result": job.result})


class ComeBackLater:
    """Middleware: a request that finds the database busy or away may be repeated."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        if not isinstance(error, (OperationalError, neoq.BackendUnavailable, neoq.BackendClosedError)):
            return None
        answer = JsonResponse({"error": "please try again in a moment"}, status=503)
        answer["Retry-After"] = "1"
        return answer
