"""Settings of the demonstration project; everything that differs between machines comes from the environment.

DJANGO_DEBUG           1 for development; anything else, or nothing, is production
DJANGO_SECRET_KEY      required unless debugging
DJANGO_ALLOWED_HOSTS   comma-separated; required in practice unless debugging
DATABASE_URL           default: SQLite beside manage.py
EVENTS_BROKER          where events are kept, see events/conf.py
"""

import os
from pathlib import Path

import dj_database_url
from django.core.exceptions import ImproperlyConfigured

BASE_DIR = Path(__file__).resolve().parent.parent

DEBUG = os.environ.get("DJANGO_DEBUG", "") == "1"

SECRET_KEY = os.environ.get("DJANGO_SECRET_KEY") or ("debugging-only" if DEBUG else "")
if not SECRET_KEY:
    raise ImproperlyConfigured(
        "Set DJANGO_SECRET_KEY to a long random string, or DJANGO_DEBUG=1 to run in development."
    )

# With DEBUG, Django accepts localhost and its addresses when the list is empty.
ALLOWED_HOSTS = [host.strip() for host in os.environ.get("DJANGO_ALLOWED_HOSTS", "").split(",") if host.strip()]

INSTALLED_APPS = [
    "django.contrib.staticfiles",
    "events",
    "sse_demo",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "sse_demo.urls"
WSGI_APPLICATION = "sse_demo.wsgi.application"
ASGI_APPLICATION = "sse_demo.asgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {"context_processors": ["django.template.context_processors.request"]},
    }
]

DATABASES = {"default": dj_database_url.config(default=f"sqlite:///{BASE_DIR / 'db.sqlite3'}")}

STATIC_URL = "static/"
STATIC_ROOT = BASE_DIR / "staticfiles"
STATICFILES_DIRS = [BASE_DIR / "static"]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        # In production every static file carries its hash in its name and may be cached for ever.
        "BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"
        if DEBUG
        else "sse_demo.static.HashedStaticFilesStorage"
    },
}

USE_TZ = True
TIME_ZONE = "UTC"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

EVENTS = {"BROKER": os.environ.get("EVENTS_BROKER", "memory:")}
