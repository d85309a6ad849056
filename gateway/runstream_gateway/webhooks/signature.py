"""By which a receiver knows that it is the gateway that calls, and that nobody has changed or repeated what it says."""

from __future__ import annotations

import hashlib
import hmac

SIGNATURE = "runstream-signature"
DELIVERY = "runstream-delivery"


def sign(secret: str, at: int, body: bytes) -> str:
    """The header `runstream-signature` of a body.

    Args:
        secret: what the gateway and the receiver know.
        at: when it is sent, seconds since 1970.
        body: what is sent.
    """
    digest = hmac.new(secret.encode(), b"%d.%s" % (at, body), hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"
