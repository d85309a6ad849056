"""HTTP, SSE and WebSocket in front of runs. There is nothing here yet; `docs/GUIDE.md` shows a page of FastAPI."""

from __future__ import annotations
