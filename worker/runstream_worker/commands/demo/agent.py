"""The default agent in no hurry: long enough at a sentence that its worker can be killed in the middle of it."""

from __future__ import annotations

import os

from runstream_worker.default_agent import chat_model, default_agent
from runstream_worker.offline_model import OfflineChatModel

_TOKEN_DELAY = 0.08

_model = chat_model(os.environ)
if isinstance(_model, OfflineChatModel):
    _model.token_delay = _TOKEN_DELAY

graph = default_agent(_model)
