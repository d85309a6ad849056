"""Where a client comes back to when an answer breaks off: `Location`, with what it had asked for.

Clients come back to it with nothing but the id of the last event that they have seen. One that has not seen any would
begin with what comes from then on, and miss what came while it was away; one that had asked for some modes would get
all of them; and one whose leaving stops the run would no longer do so.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlencode


def places(
    path: str,
    leaf: str,
    *,
    after: str | None = None,
    modes: Sequence[str] | None = None,
    cancel_on_disconnect: bool = False,
    settled: bool = False,
) -> dict[str, str]:
    """The headers of an answer that says where it, and its run, are found.

    Args:
        path: of the run, from the base URL.
        leaf: of the answer, below that path.
        after: the event behind which the answer begins.
        modes: the modes that were asked for.
        cancel_on_disconnect: whether the run is stopped if the client leaves.
        settled: whether only settled events were asked for.
    """
    query = {
        "last_event_id": after,
        "stream_mode": ",".join(modes) if modes else None,
        "cancel_on_disconnect": "1" if cancel_on_disconnect else None,
        "settled": "1" if settled else None,
    }
    asked = urlencode({name: value for name, value in query.items() if value}, safe=",|:")
    return {"location": f"{path}/{leaf}" + (f"?{asked}" if asked else ""), "content-location": path}
