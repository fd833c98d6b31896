"""What a plan consists of. Pure values; `executor` carries them out.

A key names a node of the local tree: a node's id, or `+path` for an entry that the server does
not know yet. Every destructive step carries what it expects to find; what is found instead means
that the world has moved on: observe and plan again.

A node's memory has two halves: its place, and its content with attributes. Moves and `SettlePlace`
record the place alone. `Bind`, `SetLocal`, `MakeFolder` and `Download` record their `node` as it is
given: the planner gives it the place that is agreed on. `Upload` and `SetRemote` of a node that is
synced record the content of the server's row, not its place: the row may already tell of a move
that the disk has not followed, and remembering that would undo it.
"""

from dataclasses import dataclass, field

from agent.model import LocalEntry, RemoteNode, SyncedNode, Trouble


@dataclass(frozen=True, slots=True)
class Bind:
    """Entry and node are the same thing (same place, same content): remember that they agree.

    Also when both sides changed to the same content, or only the version's id moved on. The
    remote attributes are set on disk where they differ.
    """

    node: RemoteNode
    entry: LocalEntry
    replaces: str | None = None
    """Folders: the deleted node that the entry was until now; what is in it stays in it."""


@dataclass(frozen=True, slots=True)
class Forget:
    """The node is no longer synced: gone on both sides, or to be looked at as new."""

    node_id: str


@dataclass(frozen=True, slots=True)
class SettlePlace:
    """Both sides have the node at the same new place: remember it; content is another matter."""

    node: RemoteNode


@dataclass(frozen=True, slots=True)
class KeepCopy:
    """Rename a local entry so that its name is free for what was committed first.

    With `node_id` its content no longer belongs to that node (a losing edit). `parked`: it is no
    copy and no conflict; it only makes way for a moment and goes on with the next plans.
    """

    entry: LocalEntry
    to: str
    node_id: str | None
    parked: bool = False


@dataclass(frozen=True, slots=True)
class MoveLocal:
    """Follow a move or rename of the server."""

    node: RemoteNode
    entry: LocalEntry
    to: str


@dataclass(frozen=True, slots=True)
class RotateLocal:
    """Follow moves that take each other's places: each goes where the next one was."""

    moves: tuple[MoveLocal, ...]


@dataclass(frozen=True, slots=True)
class CreateFolder:
    """Make a local folder known to the server. `replaces`: the node it was before it was deleted."""

    entry: LocalEntry
    parent_key: str
    name: str
    replaces: str | None = None

    @property
    def key(self) -> str:
        """The key by which others of the plan name it as their parent."""
        return self.replaces or f"+{self.entry.path}"


@dataclass(frozen=True, slots=True)
class CreateSymlink:
    """Make a local link known to the server."""

    entry: LocalEntry
    parent_key: str
    name: str


@dataclass(frozen=True, slots=True)
class MoveRemote:
    """Tell the server of a local move or rename."""

    node: RemoteNode
    parent_key: str
    name: str
    entry: LocalEntry | None = None


@dataclass(frozen=True, slots=True)
class RotateRemote:
    """Tell the server of moves that take each other's places, in one transaction."""

    moves: tuple[MoveRemote, ...]


@dataclass(frozen=True, slots=True)
class Upload:
    """Send a file's content: a new file, or a new version of `node` on top of its version.

    `undelete`: the node was deleted by someone who had not seen this edit.
    """

    entry: LocalEntry
    node: RemoteNode | None = None
    parent_key: str = ""
    name: str = ""
    undelete: bool = False


@dataclass(frozen=True, slots=True)
class SetRemote:
    """Tell the server the attributes, or the target of a link."""

    node: RemoteNode
    entry: LocalEntry


@dataclass(frozen=True, slots=True)
class MakeFolder:
    """Make a folder of the server on disk."""

    node: RemoteNode
    path: str


@dataclass(frozen=True, slots=True)
class Download:
    """Fetch a file's content, or make a link; `expect` is what it replaces (None: nothing)."""

    node: RemoteNode
    path: str
    expect: LocalEntry | None = None


@dataclass(frozen=True, slots=True)
class SetLocal:
    """Set the server's attributes on an unchanged file."""

    node: RemoteNode
    entry: LocalEntry


@dataclass(frozen=True, slots=True)
class DeleteRemote:
    """Tell the server that a node was deleted here; a folder goes with everything below it.

    `path` must be vacant, or hold `instead`: something else that has taken its name.
    """

    node: RemoteNode
    path: str
    files: int
    """How many files this deletes, folders expanded."""
    instead: LocalEntry | None = None


@dataclass(frozen=True, slots=True)
class RemoveLocal:
    """Put an unchanged entry into the agent's trash, because the server deleted its node."""

    synced: SyncedNode
    entry: LocalEntry


StateAction = Bind | Forget | SettlePlace
LocalMove = KeepCopy | MoveLocal | RotateLocal
RemoteChange = CreateFolder | CreateSymlink | MoveRemote | RotateRemote | SetRemote
Action = (
    StateAction
    | LocalMove
    | RemoteChange
    | Upload
    | MakeFolder
    | Download
    | SetLocal
    | DeleteRemote
    | RemoveLocal
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now. Carrying it out and planning again ends in an empty plan."""

    actions: tuple[Action, ...] = ()
    troubles: dict[str, Trouble] = field(default_factory=dict)
    """Path → why it is not in step, for what the plan leaves alone."""
