"""What every kind of transfer works with."""

from dataclasses import dataclass

from agent.remote import Api
from agent.settings import Settings
from agent.transfer.retry import Patience
from agent.transfer.tally import Tally
from agent.transfer.wire import Wire


@dataclass(frozen=True, slots=True)
class Channel:
    """The server, the store, and what all transfers share."""

    api: Api
    wire: Wire
    patience: Patience
    tally: Tally
    settings: Settings
