"""A fresh project that polls becomes live by the lines of README, taken as they are written."""

import re
import sys
from collections import Counter
from shutil import copytree
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, expect

from tests.browser import packages
from tests.live.servers import ROOT
from tests.live.test_readme import SECTION, Project, blocks

MODELS = """
from django.db import models


class Order(models.Model):
    is_open = models.BooleanField(default=True)
"""

VIEWS = """
from django.http import JsonResponse
from django.shortcuts import render
from rest_framework.decorators import api_view
from rest_framework.response import Response

from shop.models import Order


def page(request):
    return render(request, "page.html")


def status(request):
    return JsonResponse({"open": Order.objects.filter(is_open=True).count()})


@api_view(["GET"])
def orders(request):
    return Response(list(Order.objects.values("id", "is_open")))


def basket(request):
    return render(request, "basket.html", {"orders": Order.objects.filter(is_open=True)})
"""

URLS = """
from shop import views

urlpatterns += [
    path("", views.page),
    path("api/status/", views.status),
    path("api/orders/", views.orders),
    path("basket/", views.basket),
]
"""

PAGE = """<!doctype html>
<title>Orders</title>
<script src="/static/htmx2/htmx.min.js"></script>
<script src="/static/htmx2/sse.min.js"></script>
<output id="status"></output>
<output id="orders"></output>
<div hx-get="/basket/" hx-trigger="load, every 2s"></div>
<script type="module">
const show = (data) => (document.querySelector("#status").textContent = data.open);
setInterval(() => fetch("/api/status/").then((r) => r.json()).then(show), 2000);
</script>
<script type="module">
const show = (data) => (document.querySelector("#orders").textContent = data.length);
setInterval(() => fetch("/api/orders/").then((r) => r.json()).then(show), 2000);
</script>
"""

POLLED = ("/api/status/", "/api/orders/", "/basket/")
CHANGES = 3

# What docs/live.md takes as known.
KNOWN = """
from django.http import JsonResponse
from django.test import TestCase, override_settings
from django.urls import path
from django.utils.decorators import method_decorator
from django.views import View
from rest_framework.decorators import api_view
from rest_framework.response import Response
from rest_framework.views import APIView

from events import live
from shop.models import Order


class OrderList(APIView):
    def get(self, request):
        return Response(list(Order.objects.values("id", "is_open")))

"""

EVERY_KIND = """

urlpatterns += [path("async/", status_async), path("function/", orders)]


@override_settings(ROOT_URLCONF=__name__)
class KindsTests(TestCase):
    def test_each_kind_of_view_is_streamed(self):
        for url, answer in {
            "/status/": '{"open": 0}', "/async/": '{"open": 0}', "/orders/": "[]", "/function/": "[]"
        }.items():
            with self.subTest(url):
                stream = self.client.get(url, headers={"accept": "text/event-stream"})
                self.assertTrue(stream["Content-Type"].startswith("text/event-stream"), stream["Content-Type"])
                lines = (line for piece in stream for line in piece.decode().splitlines())
                self.assertIn(f"data: {answer}", lines)
                stream.close()
"""


def apply(difference: str, text: str) -> str:
    """Do as a block of README says: each of its hunks, which stand apart, is found once."""
    for hunk in difference.strip("\n").split("\n\n"):
        lines = hunk.split("\n")
        old, new = ("\n".join(line[1:] for line in lines if line[0] in signs) for signs in (" -", " +"))
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    directory = tmp_path_factory.mktemp("polled")
    project = Project(directory, sys.executable, "events")
    copytree(ROOT / "events", directory / "events")
    project.run("-m", "django", "startproject", "mysite", ".")
    project.run("manage.py", "startapp", "shop")
    code = blocks(SECTION)
    with (directory / "mysite" / "settings.py").open("a") as settings:
        settings.write('INSTALLED_APPS += ["shop", "rest_framework"]\n' + code["python0"])
    with (directory / "mysite" / "urls.py").open("a") as urls:
        urls.write("from django.urls import include\n" + code["python1"] + URLS)
    shop = directory / "shop"
    (shop / "models.py").write_text(MODELS)
    (shop / "views.py").write_text(VIEWS)
    (shop / "templates").mkdir()
    (shop / "templates" / "page.html").write_text(PAGE)
    (shop / "templates" / "basket.html").write_text("<b id=basket>{{ orders.count }}</b>")
    packages.copy_to(shop / "static")
    project.run("manage.py", "makemigrations", "--verbosity", "0", "shop")
    project.run("manage.py", "migrate", "--verbosity", "0")
    return project


def order(project: Project, code: str) -> None:
    project.run("manage.py", "shell", "--command", f"from shop.models import Order; Order.objects.{code}")


def look(project: Project, browser: Browser) -> Counter[str]:
    """Have orders come in while the page is open. Returns how often the browser asked for each URL meanwhile."""
    asked: Counter[str] = Counter()
    order(project, "all().delete()")
    with project.runserver() as url:
        page = browser.new_page()
        page.on("request", lambda request: asked.update([urlsplit(request.url).path]))
        page.goto(url)
        for number in range(CHANGES + 1):
            for name in ("status", "orders", "basket"):
                expect(page.locator(f"#{name}")).to_have_text(str(number), timeout=30_000)
            if number < CHANGES:
                order(project, "create()")
        page.close()
    return asked


def test_what_was_polled_is_live_by_the_lines_of_the_readme(project: Project, browser: Browser) -> None:
    before = look(project, browser)
    assert all(before[url] > CHANGES for url in POLLED)
    code = blocks(SECTION)
    shop = project.directory / "shop"
    (shop / "views.py").write_text(apply(code["diff2"], VIEWS))
    of_page, _ = code["diff3"].split("\n\n")
    changed = apply(of_page.replace("status", "orders"), apply(code["diff3"], PAGE))
    (shop / "templates" / "page.html").write_text(changed)
    after = look(project, browser)
    print(f"Requests for {CHANGES} changes: before {before}, after {after}")  # noqa: T201
    assert {url: after[url] for url in POLLED} == dict.fromkeys(POLLED, 1)


def test_the_tests_in_the_document_of_live_views_pass_as_they_are_written(project: Project) -> None:
    code = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "live.md").read_text(), re.DOTALL)
    [kinds] = (block for block in code if "urlpatterns" in block)
    [tests] = (block for block in code if "TestCase" in block)
    shop = project.directory / "shop"
    (shop / "views.py").write_text(apply(blocks(SECTION)["diff2"], VIEWS))
    (shop / "test_kinds.py").write_text(KNOWN + kinds + EVERY_KIND)
    (shop / "test_status.py").write_text(KNOWN + tests)
    project.run("manage.py", "test", "shop.test_kinds.KindsTests", "shop.test_status.StatusTests")
