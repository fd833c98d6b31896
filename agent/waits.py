"""Who waits for whom: rings of moves, and what has to make way when a ring is no exchange. Pure."""

from collections.abc import Iterable, Mapping, Sequence


def rings(blocked_by: Mapping[str, str]) -> list[list[str]]:
    """Return the rings of moves that wait for each other: each goes where the next one is."""
    found: list[list[str]] = []
    done: set[str] = set()
    for start in blocked_by:
        trail: dict[str, None] = {}
        key = start
        while key in blocked_by and key not in done and key not in trail:
            trail[key] = None
            key = blocked_by[key]
        if key in trail:
            names = list(trail)
            found.append(names[names.index(key) :])
        done.update(trail)
    return found


def find_ring(waits: Mapping[str, Sequence[str]]) -> list[str]:
    """Return one ring of keys each of which waits for the next, or nothing."""
    done: set[str] = set()
    for start in waits:
        trail: dict[str, Iterable[str]] = {start: iter(waits[start])}
        while trail:
            key = next(reversed(trail))
            below = next(iter(trail[key]), None)
            if below is None:
                done.add(key)
                trail.popitem()
            elif below in trail:
                names = list(trail)
                return names[names.index(below) :]
            elif below in waits and below not in done:
                trail[below] = iter(waits[below])
    return []
