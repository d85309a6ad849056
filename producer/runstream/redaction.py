"""What may be shown of a URL, and of a text in which one may stand: never a password, nor a part of one.

A password that is not percent-encoded moves the borders between the parts of its URL: in `redis://:pa/ss@host`, most
parsers find the port `pa`, and quote it when they refuse it. So a URL is shown in parts only where it is certain which
part is which. Otherwise only its scheme is.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

from runstream.errors import InvalidRequest

HIDDEN = "***"
_HOST = r"(?:\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._~%-]*)"
# Where there is no `@`, what stands in the place of a port may be a password.
_BEHIND_AT, _ALONE = rf"{_HOST}(?::[A-Za-z0-9]*)?", rf"{_HOST}(?::\d*)?"
_URL = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://"
    rf"(?P<place>(?P<credentials>[^\s/?#\[\]]*)@(?P<hosts>{_BEHIND_AT}(?:,{_BEHIND_AT})*)|{_ALONE}(?:,{_ALONE})*)"
    r"(?P<path>/[^\s?#@]*)?(?:\?(?P<query>[^\s#@]*))?(?:\#(?P<fragment>[^\s@]*))?"
)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_PLAIN_USER = re.compile(r"[A-Za-z0-9._~-]*")
_WORDS = re.compile(r"[A-Za-z0-9._~/\\ -]*(?::\d*)?")
_SHOWN_OPTION = re.compile(r"(?:db=\d*|ssl_[a-z_]+=[A-Za-z0-9._/~%-]*|sslmode=[a-z-]*)")

# In a text, a URL ends at white space or a quotation mark.
_URL_IN_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"`<>]*")
_NAMED = re.compile(r"(?i)(pass(?:word|wd)?['\"]?\s*[=:]\s*)('[^']*'|\"[^\"]*\"|[^\s,;&)]+)")
# Redis quotes the arguments of a command that it does not know; a password is one of AUTH's.
_ARGUMENTS = re.compile(r"(with args beginning with:).*", re.DOTALL)


def redact_url(url: str, *, with_user: bool = True) -> str:
    """Return what may be shown of a URL: its scheme, user, hosts and path, where it is certain that they are these.

    Args:
        url: a URL, or what was given as one.
        with_user: False leaves user and options out.
    """
    found = _URL.fullmatch(url)
    if found is None:
        scheme = _SCHEME.match(url)
        if scheme is not None:
            return f"{scheme[1]}://{HIDDEN}"
        return url if _WORDS.fullmatch(url) else HIDDEN
    credentials, query = found["credentials"], found["query"]
    place = found["place"] if credentials is None else found["hosts"]
    if not with_user:
        return f"{found['scheme']}://{place}{found['path'] or ''}"
    user = "" if credentials is None else f"{_redact_credentials(credentials)}@"
    options = "" if query is None else f"?{query if _may_be_shown(query) else '...'}"
    return f"{found['scheme']}://{user}{place}{found['path'] or ''}{options}"


def redact(text: str, given: Sequence[str] = ()) -> str:
    """Return a text, such as an error's or a line of a log, without the passwords in it.

    Args:
        text: it.
        given: arguments of which URLs may be quoted in the text, even such that white space is in them.
    """
    for argument in given:
        url = _SCHEME.search(argument)
        if url is not None:
            text = text.replace(argument, argument[: url.start()] + redact_url(argument[url.start() :]))
    text = _URL_IN_TEXT.sub(lambda found: _redact_in_text(found[0]), text)
    text = _NAMED.sub(rf"\1{HIDDEN}", text)
    return _ARGUMENTS.sub(rf"\1 {HIDDEN}", text)


def check_url(field: str, url: str) -> None:
    """Look whether it is certain which part of a URL is which.

    Args:
        field: what an error names.
        url: it.

    Raises:
        InvalidRequest: it is not. The message has no part of the URL but its scheme.
    """
    if _URL.fullmatch(url) is None and _SCHEME.match(url) is not None:
        raise InvalidRequest(
            field,
            f"the URL {redact_url(url)} cannot be read: it must be SCHEME://USER:PASSWORD@HOST:PORT/..., and in user, "
            "password and options '@', '/', '?', '#', '%' and white space are written as %40, %2F, %3F, %23, %25, %20",
        )


class RedactingFormatter(logging.Formatter):
    """Formats lines of a log without the passwords in them, also those that libraries write, and in tracebacks."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        return redact(super().format(record))


def _redact_credentials(credentials: str) -> str:
    user, colon, _ = credentials.partition(":")
    if not _PLAIN_USER.fullmatch(user):
        return HIDDEN
    return f"{user}:{HIDDEN}" if colon else user


def _may_be_shown(query: str) -> bool:
    return all(_SHOWN_OPTION.fullmatch(option) for option in query.split("&"))


def _redact_in_text(found: str) -> str:
    # A full stop or a bracket behind a URL belongs to the sentence.
    url = found.rstrip(".,;:!)]}")
    return redact_url(url) + found[len(url) :]
