"""What is owed to the users: which contents were written, and which of them no user wants any more.

Contents are known by their hash. Links count with their target.
"""

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

from libs.contracts.paths import name_key, original_stem, split_extension


@dataclass(slots=True)
class Ledger:
    """Shared by the users of a run, who may act at the same time."""

    written: dict[str, str] = field(default_factory=dict)
    """Content → who wrote it first, and where."""
    destroyed: set[str] = field(default_factory=set)
    """Overwritten or deleted by a user who had it before him."""
    free: set[str] = field(default_factory=set)
    """Origins that may be live although destroyed: moved by another user meanwhile."""
    origins: dict[str, str] = field(default_factory=dict)
    """Content → the first content of its file: an edit of what another moved away is moved too."""
    copied: set[str] = field(default_factory=set)
    """May be live more than once."""
    names: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def wrote(self, content: str, where: str, origin: str | None = None) -> None:
        with self._lock:
            self.written.setdefault(content, where)
            if origin is not None and origin != content:
                self.origins.setdefault(content, self.origins.get(origin, origin))

    def destroy(self, contents: Iterable[str]) -> None:
        with self._lock:
            self.destroyed.update(contents)

    def set_free(self, contents: Iterable[str]) -> None:
        with self._lock:
            self.free.update(self.origins.get(content, content) for content in contents)

    def copy(self, contents: Iterable[str]) -> None:
        with self._lock:
            self.copied.update(contents)

    def named(self, name: str) -> None:
        with self._lock:
            self.names.add(name)

    # What must hold -----------------------------------------------------------------------

    def owed(self) -> set[str]:
        """What has to be found somewhere."""
        return self.written.keys() - self.destroyed

    def invented(self, live: Iterable[str]) -> set[str]:
        return set(live) - self.written.keys()

    def doubled(self, live: list[str]) -> set[str]:
        return {content for content in live if live.count(content) > 1} - self.copied

    def back(self, live: Iterable[str]) -> set[str]:
        """What a user deleted or overwrote, and nobody edited or moved, and is live all the same."""
        found = (self.destroyed & set(live)) - self.copied
        return {content for content in found if self.origins.get(content, content) not in self.free}

    def invented_names(self, names: Iterable[str]) -> set[str]:
        """Names that nobody gave; a copy's stem may be cut."""
        known = {name_key(name) for name in self.names}
        return {name for name in names if not _is_known(name_key(name), known)}

    def rest(self, live: list[str]) -> None:
        """All are in step: from here on, nothing of before is in flight."""
        self.free.clear()
        self.destroyed.difference_update(live)
        self.copied.update(content for content in live if live.count(content) > 1)


def _is_known(name: str, known: set[str]) -> bool:
    stem, extension = split_extension(name)
    original = original_stem(stem)
    if original + extension in known:
        return True
    return original != stem and any(n.startswith(original) and n.endswith(extension) for n in known)
