"""Django's settings. The database, the jobs and the files lie in the folder `CLINIC_STATE`."""

import os
from pathlib import Path

STATE = Path(os.environ.get("CLINIC_STATE", "state"))

SECRET_KEY = os.environ.get("CLINIC_SECRET", "only-for-trying")
ALLOWED_HOSTS = ["127.0.0.1", "localhost", "testserver"]
ROOT_URLCONF = "django_host.urls"
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "django_host"]
MIDDLEWARE = ["django.middleware.common.CommonMiddleware"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": STATE / "clinic.db", "OPTIONS": {"timeout": 30}}}
PASSWORD_HASHERS = ["django.contrib.auth.hashers.ScryptPasswordHasher"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
