"""The server as the agent sees it: `Api`, opened with `open_api`."""

from agent.remote.api import Api, open_api
from agent.remote.transport import Call, LostAnswerError, NotSentError, Transport

__all__ = ["Api", "Call", "LostAnswerError", "NotSentError", "Transport", "open_api"]
