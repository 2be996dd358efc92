"""Django's own users and permissions as principals of exports.

A bearer token is signed by Django (`django.core.signing`) and names a user. It ends after `LIFETIME`, and at once when the user
is made inactive or gets another password, as Django's sessions do. Scopes follow from permissions, each time it is used.
"""

from datetime import UTC, datetime, timedelta

from django.contrib.auth import get_user_model
from django.contrib.auth.models import AbstractBaseUser
from django.core import signing
from django.utils.crypto import constant_time_compare

from django_host.models import ROWS
from fhir_bulk_middleware import Instant, Owner, Principal, TokenRejected, from_datetime, system_clock

__all__ = ["DjangoTokens", "token_of"]

ISSUER = "https://clinic.example"
LIFETIME = timedelta(minutes=30)
_SALT = "bulk-data"


def token_of(user: AbstractBaseUser) -> str:
    """A bearer token for a user who has logged in."""
    expires = from_datetime(datetime.now(UTC) + LIFETIME)
    return str(signing.dumps({"user": user.pk, "session": user.get_session_auth_hash(), "expires": expires}, salt=_SALT))


class DjangoTokens:
    """The verifier (`TokenVerifier`): a token that `token_of` made, of an active user.

    Raises:
        TokenRejected: any other token.
    """

    async def verify(self, token: str) -> Principal:
        """The user as a principal, with a scope for each type that they may view (`django_host.view_patient`)."""
        try:
            claims = signing.loads(token, salt=_SALT)
        except signing.BadSignature:
            raise TokenRejected("no token that this clinic signed") from None
        if claims["expires"] <= system_clock():
            raise TokenRejected("the token has expired")
        user = await get_user_model().objects.filter(pk=claims["user"], is_active=True).afirst()
        if user is None or not constant_time_compare(claims["session"], user.get_session_auth_hash()):
            raise TokenRejected("the user is inactive, gone, or has another password")
        permissions = await user.aget_all_permissions()
        return Principal(
            owner=Owner(ISSUER, str(user.pk)),
            scopes=tuple(f"system/{type_}.rs" for type_ in ROWS if f"django_host.view_{type_.lower()}" in permissions),
            expires_at=Instant(claims["expires"]),
        )
