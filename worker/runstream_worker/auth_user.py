"""Who asked for a run, as graphs find it that were written for LangGraph's server: `langgraph_auth_user`.

It stands in `config["configurable"]` and travels as JSON. There it is an object whose fields are attributes and keys,
as those of `langgraph_sdk.Auth.types.BaseUser`, and LangGraph makes `runtime.server_info.user` of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

AUTH_USER = "langgraph_auth_user"


class AuthUser(dict[str, Any]):
    """An authenticated user: a dict whose keys can be read as attributes, too. It is JSON as it stands."""

    @property
    def identity(self) -> str:
        """Its identity."""
        return str(self["identity"])

    @property
    def display_name(self) -> str:
        """How it is called; its identity where that is not told."""
        return str(self.get("display_name") or self.identity)

    @property
    def is_authenticated(self) -> bool:
        """Whether it is known."""
        return bool(self.get("is_authenticated", True))

    @property
    def permissions(self) -> Sequence[str]:
        """What it has been permitted."""
        permissions: Sequence[str] = self.get("permissions") or []
        return permissions

    def __getattr__(self, name: str) -> Any:
        """Any other field.

        Raises:
            AttributeError: there is none.
        """
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


def with_auth_user(configurable: Mapping[str, Any]) -> dict[str, Any]:
    """What is configurable, with the user as an object where there is one."""
    user = configurable.get(AUTH_USER)
    if not isinstance(user, Mapping) or "identity" not in user:
        return dict(configurable)
    return {**configurable, AUTH_USER: AuthUser(user)}
