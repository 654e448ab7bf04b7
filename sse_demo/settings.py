"""Settings of the demonstration project; everything that differs between machines comes from the environment.

DJANGO_DEBUG           1 for development, which manage.py takes where there is no key; anything else is production
DJANGO_SECRET_KEY      required unless debugging
DJANGO_ALLOWED_HOSTS   comma-separated; required in practice unless debugging
DJANGO_HTTPS           1 where visitors come by https: cookies travel by it alone, http is redirected to it
DATABASE_URL           default: SQLite beside manage.py
EVENTS_BROKER          where events are kept, see events/brokers; default: db:, the database above
EVENTS_PUBLISH_TOKEN   what a program sends to publish over HTTP; without it only staff can
EVENTS_METRICS_TOKEN   what Prometheus sends to read /events/metrics/; without it there are no metrics
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

# The server tells it from X-Forwarded-Proto, of proxies that it trusts: gunicorn of FORWARDED_ALLOW_IPS.
HTTPS = os.environ.get("DJANGO_HTTPS", "") == "1"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE_SSL_REDIRECT = HTTPS
SECURE_REDIRECT_EXEMPT = [r"^events/(health|metrics)/$"]  # asked for from within, past the proxy
SECURE_HSTS_SECONDS = 86_400 if HTTPS else 0  # a day: long enough to protect, short enough to change one's mind
# What the other hosts of its domain do is not for this project to say, and less so for good.
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W021"]

INSTALLED_APPS = [
    "django.contrib.admin",  # where staff log in, who may then publish
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "events",
    "sse_demo",
]

MIDDLEWARE = [
    "sse_demo.cpu_time.cpu_time",
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
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
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

DATABASES = {"default": dj_database_url.config(default=f"sqlite:///{BASE_DIR / 'db.sqlite3'}")}
SQLITE_OPTIONS = {
    "init_command": "PRAGMA journal_mode=WAL",  # who reads and who writes do not wait for each other
    "transaction_mode": "IMMEDIATE",  # who writes waits at the start, where waiting is possible
    "timeout": 20,  # seconds that a writer waits for the others
}
if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    DATABASES["default"]["OPTIONS"] = SQLITE_OPTIONS

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

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "{asctime} {levelname} {name}: {message}", "style": "{"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    # Django's own keeps what fails in production for e-mails to ADMINS, and tells nobody else.
    "root": {"handlers": ["stderr"], "level": "WARNING"},
    "loggers": {
        "django": {"handlers": [], "propagate": True},
        "django.server": {"handlers": ["stderr"], "level": "INFO", "propagate": False},
        # Under WSGI it warns of each HEAD, whose body Django leaves for the server to drop.
        "gunicorn.http.wsgi": {"level": "ERROR"},
    },
}

EVENTS = {
    # What the demonstration shows is for everybody: its open channels are meant to be open.
    "AUTHORIZE": "events.authorization.by_prefix",
    "BROKER": os.environ.get("EVENTS_BROKER", "db:"),
    "PUBLISH_TOKEN": os.environ.get("EVENTS_PUBLISH_TOKEN", ""),
    "METRICS_TOKEN": os.environ.get("EVENTS_METRICS_TOKEN", ""),
}
