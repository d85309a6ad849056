"""What a name may look like that others choose: of threads, checkpoints and namespaces, and idempotency keys.

Such names end up in keys, rows, logs and headers. None of these has to be parsed with care if no name can have a line
break, a zero byte or another control character, or half of a surrogate pair, or be of any length.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from runstream.errors import InvalidRequest

_PLAIN: Final = r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]"
_ID: Final = re.compile(_PLAIN + "{1,255}")
_LONGEST_NAMESPACE: Final = 4096
_NAMESPACE: Final = re.compile(_PLAIN + f"{{0,{_LONGEST_NAMESPACE}}}")
_MOST_LEVELS: Final = 100
_SHOWN: Final = 100


def check_id(field: str, value: object) -> str:
    """Return an id: text of 1 to 255 characters, none of them a control character.

    Raises:
        InvalidRequest: it is something else.
    """
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise InvalidRequest(field, f"{_shown(value)} must be 1 to 255 characters of text, no control characters")
    return value


def check_namespace(field: str, value: object) -> str:
    """Return the namespace of a checkpoint, such as `node:task|node:task`; it is empty for the graph itself.

    Raises:
        InvalidRequest: it is no text, is longer than 4,096 characters, or has control characters.
    """
    if not isinstance(value, str) or not _NAMESPACE.fullmatch(value):
        limit = f"{_LONGEST_NAMESPACE:,}"
        raise InvalidRequest(
            field, f"{_shown(value)} must be text of at most {limit} characters, no control characters"
        )
    return value


def check_checkpoint(field: str, configurable: Mapping[str, Any]) -> None:
    """Check how a config names a checkpoint: `checkpoint_id`, `checkpoint_ns`, `checkpoint_map`. Each may be missing.

    Args:
        field: what to call the config in error messages.
        configurable: its `configurable`.

    Raises:
        InvalidRequest: one of them is no name.
    """
    if configurable.get("checkpoint_id") is not None:
        check_id(f"{field}.checkpoint_id", configurable["checkpoint_id"])
    if configurable.get("checkpoint_ns") is not None:
        check_namespace(f"{field}.checkpoint_ns", configurable["checkpoint_ns"])
    named = configurable.get("checkpoint_map")
    if named is None:
        return
    if not isinstance(named, Mapping) or len(named) > _MOST_LEVELS:
        raise InvalidRequest(f"{field}.checkpoint_map", f"must be an object of at most {_MOST_LEVELS} checkpoint ids")
    for namespace, checkpoint_id in named.items():
        check_namespace(f"{field}.checkpoint_map", namespace)
        check_id(f"{field}.checkpoint_map[{namespace!r}]", checkpoint_id)


def _shown(value: object) -> str:
    """The value as an error shows it; what is too long is cut."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text):,} characters)"
