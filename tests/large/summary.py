"""What a run has found: printed as it goes, and once more at the end."""

from dataclasses import dataclass, field

from tests.large.source import MIB


@dataclass
class Summary:
    resent_parts: int = 0
    """Parts that S3 held and that were put again all the same."""
    resent_bytes: int = 0
    """By how much S3's data are larger than the file: sent again, or broken off by a kill."""
    failures: list[str] = field(default_factory=list)

    def line(self, text: str) -> None:
        """Say something now."""
        print(text, flush=True)

    def phase(self, name: str, size: int, seconds: float) -> None:
        """Say how long something took and how much it moved."""
        rate = size / MIB / seconds if seconds else 0.0
        self.line(f"  {name}: {size / MIB:.0f} MiB in {seconds:.1f} s, {rate:.0f} MiB/s")

    def expect(self, holds: bool, otherwise: str) -> None:
        """Note a rule that does not hold; the run goes on, for what else it can tell."""
        if not holds:
            self.failures.append(otherwise)
            self.line(f"  FAILED: {otherwise}")
