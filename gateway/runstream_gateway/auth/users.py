"""What an authentication handler may return, as one kind of user."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from starlette.authentication import BaseUser


class Record(dict[str, Any]):
    """An object of JSON whose entries are attributes, too."""

    def __getattr__(self, name: str) -> Any:
        try:
            value = self[name]
        except KeyError:
            raise AttributeError(f"the user has no {name!r}") from None
        return Record(value) if type(value) is dict else value


class User:
    """The user that authorization handlers get as `ctx.user`: by attributes, and as a mapping.

    Args:
        known: what the authentication handler returned, as an object with an `identity`; other attributes are its own.
        permissions: what it has.
    """

    def __init__(self, known: Any, permissions: Sequence[str]) -> None:
        self._known = known
        self._permissions = permissions

    @property
    def identity(self) -> str:
        """Who it is."""
        return str(self._known.identity)

    @property
    def display_name(self) -> str:
        """How it is called; as it is known where nothing else was said."""
        return str(getattr(self._known, "display_name", self.identity))

    @property
    def is_authenticated(self) -> bool:
        """Whether it is known; it is, unless the handler has said otherwise."""
        return bool(getattr(self._known, "is_authenticated", True))

    @property
    def permissions(self) -> Sequence[str]:
        """What it may do."""
        return self._permissions

    def __getattr__(self, name: str) -> Any:
        return getattr(self._known, name)

    def dict(self) -> dict[str, Any]:
        """All that is known of it."""
        return {
            "is_authenticated": self.is_authenticated,
            "display_name": self.display_name,
            **_told(self._known),
            "identity": self.identity,
            "permissions": list(self.permissions),
        }

    def model_dump(self) -> Mapping[str, Any]:
        """The same."""
        return self.dict()

    def __getitem__(self, name: str) -> Any:
        return self.dict()[name]

    def __contains__(self, name: object) -> bool:
        return name in self.dict()

    def __iter__(self) -> Iterator[str]:
        return iter(self.dict())

    def __len__(self) -> int:
        return len(self.dict())

    def get(self, name: str, default: Any = None) -> Any:
        """An entry."""
        return self.dict().get(name, default)

    def keys(self) -> Any:
        """The entries' names."""
        return self.dict().keys()

    def values(self) -> Any:
        """The entries."""
        return self.dict().values()

    def items(self) -> Any:
        """The entries with their names."""
        return self.dict().items()


def user_of(returned: Any) -> tuple[Any, Sequence[str]]:
    """The user, and its permissions, of what an authentication handler returned.

    That is an identity; or an object or a mapping with one, and perhaps permissions; or a pair of permissions and one
    of these.

    Raises:
        ValueError: it is nothing of the kind.
    """
    permissions: Any = None
    if isinstance(returned, tuple):
        if len(returned) != 2:
            raise ValueError(f"returned {len(returned)} things; a pair is (permissions, user)")
        permissions, returned = returned
    known = _known(returned)
    if permissions is None:
        permissions = getattr(known, "permissions", None)
    held = [permissions] if isinstance(permissions, str) else list(permissions or [])
    # A user class of Starlette's kind is passed on as it is: handlers may look whether it is theirs.
    return (known if isinstance(known, BaseUser) else User(known, held)), held


def _known(returned: Any) -> Any:
    if isinstance(returned, str):
        known: Any = Record(identity=returned)
    elif isinstance(returned, Mapping):
        known = Record(returned)
    else:
        known = returned
    if not isinstance(known, BaseUser) and not isinstance(getattr(known, "identity", None), str | int):
        raise ValueError(  # noqa: TRY004 - of any type
            f"returned {type(returned).__name__} without an identity; it has to be the user's id, or an object or a "
            "dict with `identity`"
        )
    return known


def _told(known: Any) -> dict[str, Any]:
    if isinstance(known, dict):
        return dict(known)
    if callable(dump := getattr(known, "model_dump", None)):
        return dict(dump(mode="json"))
    if callable(tell := getattr(known, "dict", None)):
        return dict(tell())
    return {}


def as_json(user: Any, permissions: Sequence[str]) -> dict[str, Any]:
    """All that is known of a user, as JSON; what has no form in JSON is told as text."""
    whole = user if isinstance(user, User) else User(user, permissions)
    told: dict[str, Any] = json.loads(json.dumps(whole.dict(), default=str))
    return told
