"""Observing the disk: what is there, and what is certainly no longer there.

An error of any kind is never read as a deletion: a path is `gone` only when the system said that
it does not exist, in a folder that is there.
"""

from agent.scanner.result import ScanResult
from agent.scanner.scan import scan

__all__ = ["ScanResult", "scan"]
