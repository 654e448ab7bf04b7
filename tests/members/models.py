"""A user model of a project's own: its primary key is a UUID."""

import uuid
from typing import Any, ClassVar

from django.contrib.auth.models import AbstractBaseUser, BaseUserManager
from django.db import models


class Member(AbstractBaseUser):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    name = models.CharField(max_length=100, unique=True)
    is_active = models.BooleanField(default=True)

    USERNAME_FIELD = "name"

    objects: ClassVar[BaseUserManager[Any]] = BaseUserManager()

    class Meta:
        app_label = "members"

    def __str__(self) -> str:
        return self.name
