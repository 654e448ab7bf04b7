import json

from django.contrib.auth import login, logout
from django.http import HttpRequest, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

from events import revoke
from tests.live.urls import urlpatterns as live
from tests.members.models import Member


@csrf_exempt
def login_view(request: HttpRequest) -> JsonResponse:
    """Log in under a name, without a password: it is the session that matters."""
    member, _ = Member.objects.get_or_create(name=request.POST["name"])
    login(request, member)
    return JsonResponse({"id": str(member.pk)})


@csrf_exempt
def logout_view(request: HttpRequest) -> JsonResponse:
    member = request.user.pk
    logout(request)
    revoke(member)
    return JsonResponse({})


@csrf_exempt
def expel_view(request: HttpRequest) -> JsonResponse:
    """Deactivate a member, whose streams end with that."""
    member = Member.objects.get(pk=request.POST["id"])
    member.is_active = False
    member.save()
    revoke(member)
    return JsonResponse({})


@csrf_exempt
def revoke_view(request: HttpRequest) -> JsonResponse:
    revoke(**json.loads(request.body))
    return JsonResponse({})


urlpatterns = [
    path("test/login/", login_view),
    path("test/logout/", logout_view),
    path("test/expel/", expel_view),
    path("test/revoke/", revoke_view),
    *live,
]
