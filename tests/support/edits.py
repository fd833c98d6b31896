"""Random contents and random edits of them, by seed."""

from random import Random


def random_content(random: Random, size: int) -> bytes:
    """Return bytes of which some are noise, some repeat, some are zeros."""
    out = bytearray()
    while len(out) < size:
        length = random.randint(1, max(1, size // 3))
        kind = random.random()
        if kind < 0.6 or not out:
            out += random.randbytes(length)
        elif kind < 0.8:
            at = random.randrange(len(out))
            out += out[at : at + length]
        else:
            out += bytes(length)
    return bytes(out[:size])


def edited(random: Random, content: bytes, edits: int) -> bytes:
    """Return a content after so many edits: insert, delete, overwrite, move a block, append, truncate."""
    out = bytearray(content)
    for _ in range(edits):
        at = random.randint(0, len(out))
        length = random.randint(1, 20_000)
        match random.choice(("insert", "delete", "overwrite", "move", "append", "truncate")):
            case "insert":
                out[at:at] = random.randbytes(length)
            case "delete":
                del out[at : at + length]
            case "overwrite":
                out[at : at + length] = random.randbytes(len(out[at : at + length]))
            case "move":
                block = out[at : at + length]
                del out[at : at + length]
                to = random.randint(0, len(out))
                out[to:to] = block
            case "append":
                out += random.randbytes(length)
            case _:
                del out[len(out) - min(length, len(out)) :]
    return bytes(out)


def pieces_of(random: Random, content: bytes, largest: int) -> list[bytes]:
    """Return a content in pieces of random sizes."""
    pieces, at = [], 0
    while at < len(content):
        length = random.randint(1, largest)
        pieces.append(content[at : at + length])
        at += length
    return pieces
