"""Bytes to and from S3, by presigned requests, in bounded memory: `Transfer`."""

from agent.transfer.facade import Transfer, open_transfer
from agent.transfer.large import LargeUpload
from agent.transfer.ranges import in_ranges
from agent.transfer.small import SmallOutcome, SmallSource, SmallUpload, split_batches
from agent.transfer.source import DeltaBase, LargeSource
from agent.transfer.tally import Direction, Moving, Tally

__all__ = [
    "DeltaBase",
    "Direction",
    "LargeSource",
    "LargeUpload",
    "Moving",
    "SmallOutcome",
    "SmallSource",
    "SmallUpload",
    "Tally",
    "Transfer",
    "in_ranges",
    "open_transfer",
    "split_batches",
]
