"""The server of the simulation: the HTTP API over memory, with the services' own rules.

The tree is changed by `services.metadata.domain`, sessions by `services.upload.domain`; only what
is around them (Mongo, the bus, S3) is played. It passes the same tests as the real one
(`tests/contract/test_agents_server.py`).
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from agent.model import Kind, RemoteNode
from libs.contracts import api, tree
from libs.contracts.api import DeltaOffer, PartRow, SignedRequest, UploadMode, UploadState
from libs.contracts.cursor import Cursor
from libs.contracts.endpoints import ENDPOINTS, Endpoint
from libs.contracts.errors import (
    ConflictError,
    InvalidRequestError,
    LockstepError,
    NotFoundError,
    error_from_code,
)
from libs.contracts.keys import new_prefix
from libs.contracts.parts import part_count, part_span
from libs.contracts.paths import split_path
from libs.contracts.tree import ItemResult, NodeRow
from libs.web.problems import from_validation, problem_document
from services.metadata.domain.model import (
    Actor,
    CommitFile,
    Job,
    Node,
    Object,
    RestoreNode,
    RestoreVersion,
    UploadRef,
    Version,
    to_micros,
)
from services.metadata.service.feed import checked, moved
from services.metadata.store.reads import Head
from services.upload.domain.completion import missing_error, plan, same_request, with_targets
from services.upload.domain.modes import (
    Announced,
    Offer,
    Sizes,
    StoredCopy,
    by_bytes,
    by_delta,
    entry_of,
    is_in_the_way,
    is_offered,
    mode_of,
    rewished,
    with_parts,
)
from services.upload.domain.outcome import Refill, settled
from services.upload.domain.session import Device, Entry, Session, Travelling, dedupe_key
from services.upload.service import announce
from services.upload.service.present import shown
from tests.simulation.engine import deltas
from tests.simulation.engine.small import SIZES
from tests.simulation.engine.store import Store
from tests.support.metadata_space import ROOT, Space

USER: Final = "a" * 24
_START: Final = datetime(2026, 11, 20, tzinfo=UTC)
_DELTA_WAIT: Final = timedelta(minutes=15)


@dataclass(frozen=True, slots=True)
class Request:
    """What a device asks."""

    device: str
    method: str
    path: str
    query: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class Whim(StrEnum):
    """What a server may do with a delta that is no error, or is one of its own."""

    NO_BASE = "it does not take an offer"
    REFUSES = "it refuses what it was sent"
    NO_DELTA = "it does not know the chunks of a version"
    LIES = "its recipe gives other bytes"
    BABBLES = "its recipe is none"


@dataclass
class Server:
    """One account. `sizes` are small, so that small files travel in parts."""

    sizes: Sizes = SIZES
    page: int = 1000
    """Rows of a page of the feed."""
    space: Space = field(default_factory=Space)
    store: Store = field(default_factory=Store)
    sessions: dict[str, Session] = field(default_factory=dict)
    digests: dict[tuple[str, int], str] = field(default_factory=dict)
    recorded: set[tuple[str, int]] = field(default_factory=set)
    on_change: Callable[[int, int], None] = lambda _from, _to: None
    """Told when the tree has changed: (sequence number before, after)."""
    commit_later: Callable[[Callable[[], None]], bool] = lambda _commit: False
    """Asked before a commit: True when it will be made later; the request is answered with 202 then."""
    forgets: Callable[[], bool] = lambda: False
    """Asked when a reader wants digests of parts: True when the session that sent them is not remembered."""
    whim: Callable[[Whim], bool] = lambda _whim: False
    """Asked when there is occasion for one."""
    purged_seq: int = 0
    clock: Callable[[], float] = lambda: 0.0

    # What the simulation looks at -------------------------------------------------------------

    @property
    def seq(self) -> int:
        return self.space.seq

    def row(self, node: Node) -> RemoteNode:
        return RemoteNode.of(node.row())

    def live(self) -> list[RemoteNode]:
        return [self.row(node) for node in self.space.nodes.values() if self.is_live(node)]

    def is_live(self, node: Node) -> bool:
        while not node.deleted:
            if node.parent_id == ROOT:
                return True
            node = self.space.nodes[node.parent_id]
        return False

    def path_of(self, node: Node | RemoteNode) -> str:
        names = [node.name]
        while node.parent_id != ROOT:
            node = self.space.nodes[node.parent_id]
            names.append(node.name)
        return "/".join(reversed(names))

    def by_path(self) -> dict[str, RemoteNode]:
        return {self.path_of(row): row for row in self.live()}

    def change(self, job: Job) -> tuple[ItemResult, ...]:
        """Carry a job out and tell of it."""
        before = self.space.seq
        (results,) = self.space.run(job)
        if self.space.seq != before:
            self.on_change(before, self.space.seq)
        return results

    def restore_node(self, node_id: str) -> bool:
        return self.change(Job(Actor(), (RestoreNode(node_id),)))[0].ok

    def restore_version(self, node_id: str, version_id: str) -> bool:
        return self.change(Job(Actor(), (RestoreVersion(node_id, version_id, None),)))[0].ok

    def now(self) -> datetime:
        return _START + timedelta(seconds=self.clock())

    # HTTP -------------------------------------------------------------------------------------

    def answer(self, request: Request) -> Answer:
        """Answer as the gateway does."""
        try:
            endpoint, path = _route(request)
            body = None if endpoint.request is None else _parsed(endpoint.request, request.body)
            status, reply = _HANDLERS[endpoint.name](self, _Asked(request, path, body))
        except LockstepError as error:
            return Answer(error.status, json.dumps(problem_document(error)).encode())
        return Answer(status, b"" if reply is None else reply.model_dump_json().encode())

    # The tree ---------------------------------------------------------------------------------

    def sync(self, asked: "_Asked") -> tuple[int, BaseModel]:
        query = asked.request.query
        heads = {ROOT: Head(self.space.seq, self.purged_seq, 0)}
        given = Cursor.decode(query["cursor"]) if "cursor" in query else Cursor(self.space.epoch)
        if "changed_since" in query:
            since = to_micros(datetime.fromisoformat(query["changed_since"]))
            before = [node.seq for node in self.space.nodes.values() if node.changed_us < since]
            given = given.at(ROOT, max(before, default=0))
        here = checked(given, heads, self.space.epoch)
        limit = int(query.get("limit", self.page))
        after = here.seqs.get(ROOT, 0)
        newer = sorted((n for n in self.space.nodes.values() if n.seq > after), key=lambda n: n.seq)
        rows = newer[:limit]
        place = rows[-1].seq if len(newer) > limit else self.space.seq
        page = api.SyncPage(
            items=[node.row() for node in rows],
            cursor=moved(here, ROOT, place).encode(),
            has_more=place < self.space.seq,
            epoch=self.space.epoch,
        )
        return 200, page

    def rows_between(self, after: int, to: int) -> list[NodeRow]:
        """Return what a push carries."""
        nodes = sorted(self.space.nodes.values(), key=lambda node: node.seq)
        return [node.row() for node in nodes if after < node.seq <= to]

    def tree_batch(self, asked: "_Asked") -> tuple[int, BaseModel]:
        job = Job(Actor(USER, asked.device_id, asked.request.device), tuple(asked.body.ops))
        return 200, tree.BatchResults(items=list(self.change(job)))

    def list_files(self, asked: "_Asked") -> tuple[int, BaseModel]:
        query = asked.request.query
        if "path" in query:
            return 200, api.Page(items=[self._at_path(query["path"]).row()])
        nodes = [n for n in self.space.nodes.values() if n.parent_id == query["parent"] and self.is_live(n)]
        return 200, api.Page(items=[node.row() for node in sorted(nodes, key=lambda node: node.name)])

    def _at_path(self, path: str) -> Node:
        wanted = "/".join(split_path(path))
        for node in self.space.nodes.values():
            if self.is_live(node) and self.path_of(node) == wanted:
                return node
        raise NotFoundError

    def get_file(self, asked: "_Asked") -> tuple[int, BaseModel]:
        node = self.space.nodes.get(asked.path["node_id"])
        if node is None:
            raise NotFoundError
        return 200, node.row()

    # Reading content --------------------------------------------------------------------------

    def download(self, asked: "_Asked") -> tuple[int, BaseModel]:
        return 200, self._download(asked.path["node_id"], asked.request.query.get("version"))

    def download_batch(self, asked: "_Asked") -> tuple[int, BaseModel]:
        results = []
        for index, item in enumerate(asked.body.items):
            try:
                found = self._download(item.node_id, item.version_id)
            except LockstepError as error:
                results.append(api.DownloadResult(index=index, code=error.code, detail=error.detail))
            else:
                results.append(api.DownloadResult(index=index, download=found))
        return 200, api.DownloadBatchReply(items=results)

    def download_delta(self, asked: "_Asked") -> tuple[int, BaseModel]:
        node_id, query = asked.path["node_id"], asked.request.query
        version, old = self._readable(query.get("base", node_id), query["from"])
        _, new = self._readable(node_id, query.get("to"))
        recipe = deltas.difference(self.store.objects[old.key], self.store.objects[new.key])
        if recipe is None or self.whim(Whim.NO_DELTA):
            raise ConflictError(code="no_delta")
        if self.whim(Whim.LIES):
            recipe = deltas.lie(recipe, old.size)
        text = "bm9uc2Vuc2U=" if self.whim(Whim.BABBLES) else deltas.told(recipe)
        link = self._download(node_id, query.get("to"))
        return 200, api.DownloadDelta(**link.model_dump(), from_version_id=version.id, recipe=text)

    def part_digests(self, asked: "_Asked") -> tuple[int, BaseModel]:
        query = asked.request.query
        _, stored = self._readable(asked.path["node_id"], query.get("version"))
        session = next((s for s in self.sessions.values() if self._joined(s, stored.key)), None)
        if session is None or self.forgets():
            return 200, api.PartDigests()
        first, limit = int(query.get("first", 1)), int(query.get("limit", 1000))
        size, total = session.part_size or 0, session.parts_total
        items = [
            PartRow(number=n, size=part_span(session.size, size, n)[1], digest=self.digests[session.id, n])
            for n in range(first, min(first + limit - 1, total) + 1)
        ]
        return 200, api.PartDigests(part_size=size, parts_total=total, items=items)

    def _joined(self, session: Session, key: str) -> bool:
        return session.multipart and session.entries[0].key == key and session.entries[0].sealed

    def _download(self, node_id: str, version_id: str | None) -> api.Download:
        version, stored = self._readable(node_id, version_id)
        url, expires_at = self.store.sign(stored.key, self.now())
        return api.Download(
            node_id=node_id, version_id=version.id, url=url, expires_at=expires_at, size=version.size,
            content_hash=version.content_hash,
        )  # fmt: skip

    def _readable(self, node_id: str, version_id: str | None) -> tuple[Version, Object]:
        node = self.space.nodes.get(node_id)
        if node is None or (version_id is None and not self.is_live(node)):
            raise NotFoundError
        if node.kind is not Kind.FILE:
            raise ConflictError(code="not_a_file")
        version = self.space.versions.get(version_id or node.version_id or "")
        if version is None or version.node_id != node_id:
            raise NotFoundError
        stored = self.space.objects.get(version.object_id)
        if version.corrupt or stored is None or not stored.live or stored.corrupt:
            raise ConflictError(code="object_gone")
        return version, stored

    # Sessions ---------------------------------------------------------------------------------

    def create_upload(self, asked: "_Asked") -> tuple[int, BaseModel]:
        file = Announced(asked.body.content_hash, asked.body.size, asked.body.path)
        key = dedupe_key(USER, ROOT, file.content_hash, file.size)
        offer = self._offer(asked.body.delta)
        session = next((s for s in self.sessions.values() if s.live and s.dedupe_key == key), None)
        joined = session is not None and session.state is UploadState.OPEN
        if session is None:
            session = self._keep(self._as_wished(self._draft(asked, [file]), offer))
        elif session.state is UploadState.OPEN:
            self._check_not_in_the_way(session, asked, offer)
            session = self._touched(self._rewished(session, offer), asked)
        shown = self._shown(session, to_send=session.state is UploadState.OPEN)
        return 201, shown.model_copy(update={"joined": joined})

    def _check_not_in_the_way(self, session: Session, asked: "_Asked", offer: Offer | None) -> None:
        made = self._is_made(session.entries[0])
        if not made and is_in_the_way(session, asked.device.id, offer, self.now() - _DELTA_WAIT):
            raise ConflictError(code="delta_under_way")

    def _touched(self, session: Session, asked: "_Asked") -> Session:
        return self._keep(replace(session, device=asked.device, updated_at=self.now()))

    def create_upload_batch(self, asked: "_Asked") -> tuple[int, BaseModel]:
        files = [Announced(item.content_hash, item.size, item.path) for item in asked.body.items]
        session = self._keep(replace(self._draft(asked, files), batch=True))
        return 201, self._shown(session, to_send=True)

    def _draft(self, asked: "_Asked", files: Sequence[Announced]) -> Session:
        prefix, now = new_prefix(ROOT), self.now()
        entries = tuple(
            entry_of(
                index, file, self._stored(file.content_hash), prefix,
                (self.space.new_id(), mode_of(file.size, self.sizes)),
            )
            for index, file in enumerate(files)
        )  # fmt: skip
        return Session(
            id=self.space.new_id(), user_id=USER, namespace_id=ROOT, batch=False, state=UploadState.OPEN,
            attempt=0, entries=entries, size=sum(file.size for file in files), key_prefix=prefix,
            device=asked.device, devices=(asked.device.id,), created_at=now, updated_at=now,
            expires_at=now + timedelta(days=7),
        )  # fmt: skip

    def _offer(self, asked: DeltaOffer | None) -> Offer | None:
        """Return the offer with its base, any version that can be read; None: the whole is to be sent."""
        version = None if asked is None else self.space.versions.get(asked.base_version_id)
        if asked is None or version is None or version.node_id not in self.space.nodes:
            return None
        stored = self.space.objects.get(version.object_id)
        if version.corrupt or stored is None or not stored.live or stored.corrupt or self.whim(Whim.NO_BASE):
            return None
        base = tree.BaseVersion(
            node_id=version.node_id, version_id=version.id, content_hash=version.content_hash
        )
        return Offer(stored.key, stored.size, asked.size, asked.sha256, base)

    def _as_wished(self, session: Session, offer: Offer | None) -> Session:
        if offer is not None and session.entries[0].mode is not UploadMode.STORED:
            return by_delta(session, offer, self.sizes)
        return with_parts(session, self.sizes)

    def _rewished(self, session: Session, offer: Offer | None) -> Session:
        """Return an open session as a device joins it. What was begun another way is void."""
        if self._is_made(session.entries[0]):
            return session
        wished = rewished(session, offer, self.sizes)
        if wished is session or is_offered(session, offer):
            return wished
        self._forget_parts(session)
        return replace(wished, attempt=session.attempt + 1)

    def _forget_parts(self, session: Session) -> None:
        if session.in_parts is not None:
            self.store.parts.pop(session.in_parts.key, None)
        for known in [known for known in self.digests if known[0] == session.id]:
            del self.digests[known]
        self.recorded = {known for known in self.recorded if known[0] != session.id}

    def _stored(self, content_hash: str) -> StoredCopy | None:
        for item in self.space.objects.values():
            if item.content_hash == content_hash and item.live and item.verified and not item.corrupt:
                return StoredCopy(item.id, item.key, item.size)
        return None

    def verify_all(self) -> None:
        """Read and hash what came in parts, as the janitor does."""
        for key, item in list(self.space.objects.items()):
            content = self.store.objects.get(item.key, b"")
            if hashlib.sha256(content).hexdigest() == item.content_hash:
                self.space.objects[key] = replace(item, verified=True)

    def _keep(self, session: Session) -> Session:
        """Keep a session, in parts of the size that is set: the real rule rounds it up to whole MiB."""
        if session.in_parts is not None and session.part_size != self.sizes.part:
            total = part_count(session.in_parts.size, self.sizes.part)
            session = replace(session, part_size=self.sizes.part, parts_total=total)
        self.sessions[session.id] = session
        return session

    def _session(self, asked: "_Asked") -> Session:
        session = self.sessions.get(asked.path["upload_id"])
        if session is None:
            raise NotFoundError
        return session

    def _shown(self, session: Session, *, to_send: bool = False) -> api.Upload:
        if self._is_made(session.entries[0]):
            session = replace(session, part_size=None, parts_total=0, parts_done=0)
        parts = None
        if session.part_size is not None and session.live:
            parts = self._parts(session)
        puts = {}
        if to_send and session.in_parts is None:
            puts = {
                entry.index: self._put_url(entry)
                for entry in session.entries
                if entry.needs_put() and not self._is_sent(entry)
            }
        return shown(session, puts=puts, parts=parts)

    def _parts(self, session: Session) -> list[PartRow]:
        key = _travelling(session).key
        held = self.store.parts.get(key, {})
        if key in self.store.objects:  # joined
            numbers = range(1, session.parts_total + 1)
            held = dict.fromkeys((n for n in numbers if (session.id, n) in self.digests), b"")
        return [
            PartRow(number=number, size=len(content), digest=self.digests.get((session.id, number)))
            for number, content in sorted(held.items())
        ]

    def _is_sent(self, entry: Entry) -> bool:
        """Whether the one request was made: the store holds what it was bound to."""
        key, size, _ = entry.put_bound()
        return self._is_made(entry) or self.store.size(key) == size

    def _is_made(self, entry: Entry) -> bool:
        """Whether a completion that was refused has put the content together."""
        return entry.delta is not None and entry.sealed and self.store.size(entry.key) == entry.size

    def _put_url(self, entry: Entry) -> SignedRequest:
        key, size, digest = entry.put_bound()
        url, expires_at = self.store.sign(key, self.now(), size=size, sha256=digest)
        return SignedRequest(method="PUT", url=url, headers={}, expires_at=expires_at)

    def get_upload(self, asked: "_Asked") -> tuple[int, BaseModel]:
        return 200, self._shown(self._session(asked))

    def list_uploads(self, asked: "_Asked") -> tuple[int, BaseModel]:
        wanted = [s for s in self.sessions.values() if s.live or asked.request.query.get("state") == "all"]
        return 200, api.Uploads(items=[self._shown(session) for session in wanted])

    def abort_upload(self, asked: "_Asked") -> tuple[int, None]:
        session = self._session(asked)
        if session.pending:
            raise ConflictError(code="commit_pending")
        if session.state is UploadState.OPEN:
            self._keep(replace(session, state=UploadState.ABORTED))
        return 204, None

    def upload_urls(self, asked: "_Asked") -> tuple[int, BaseModel]:
        session = self._open_session(asked)
        if asked.body.parts is None:
            entries = [_entry_to_put(session, index) for index in asked.body.entries]
            return 200, api.UrlsReply(items={entry.index: self._put_url(entry) for entry in entries})
        _check_in_parts(session, asked.body)
        self._fix_digests(session, asked.body.parts)
        session = self._touched(session, asked)
        signed = {number: self._part_url(session, number) for number in asked.body.parts}
        done = [number for number in asked.body.parts if (session.id, number) in self.recorded]
        return 200, api.UrlsReply(items=signed, done=done)

    def _open_session(self, asked: "_Asked") -> Session:
        session = self._session(asked)
        if session.state is not UploadState.OPEN:
            raise ConflictError(code="upload_not_open")
        return session

    def _fix_digests(self, session: Session, digests: Mapping[int, str]) -> None:
        differing = [n for n, d in digests.items() if self.digests.get((session.id, n), d) != d]
        if differing:
            raise ConflictError(code="part_digest_fixed", parts=differing)
        self.digests.update({(session.id, number): digest for number, digest in digests.items()})

    def _part_url(self, session: Session, number: int) -> SignedRequest:
        size, whole = session.part_size or 0, _travelling(session)
        length = min(size, whole.size - (number - 1) * size)
        digest = self.digests[session.id, number]
        url, expires_at = self.store.sign(whole.key, self.now(), size=length, sha256=digest, part=number)
        return SignedRequest(method="PUT", url=url, headers={}, expires_at=expires_at)

    def record_parts(self, asked: "_Asked") -> tuple[int, BaseModel]:
        session = self._open_session(asked)
        _check_in_parts(session, asked.body)
        unknown = [number for number in asked.body.parts if (session.id, number) not in self.digests]
        if unknown:
            raise missing_error("parts_missing", unknown)
        self._fix_digests(session, asked.body.parts)
        self.recorded.update((session.id, number) for number in asked.body.parts)
        return 200, self._shown(self._counted(session))

    def _counted(self, session: Session) -> Session:
        done = sum(known[0] == session.id for known in self.recorded)
        return self._keep(replace(session, parts_done=done, updated_at=self.now()))

    # Completing -------------------------------------------------------------------------------

    def complete_upload(self, asked: "_Asked") -> tuple[int, BaseModel]:
        return self._complete(asked, {0: asked.body})

    def complete_upload_batch(self, asked: "_Asked") -> tuple[int, BaseModel]:
        targets = {
            item.index: tree.CommitTarget.model_validate(item.model_dump(exclude={"index"}))
            for item in asked.body.items
        }
        return self._complete(asked, targets)

    def _complete(self, asked: "_Asked", targets: dict[int, tree.CommitTarget]) -> tuple[int, BaseModel]:
        session = self._session(asked)
        if session.pending:
            if not same_request(session, targets):
                raise ConflictError(code="commit_pending")
            return 202, api.CompleteReply(upload_id=session.id, state=session.state)
        todo = plan(session, targets)
        if todo.asked:
            self._begin(session, asked.device, todo.asked)
        return self._answered(self.sessions[session.id], targets)

    def _begin(self, session: Session, device: Device, asked: Mapping[int, tree.CommitTarget]) -> None:
        if session.state is UploadState.FAILED:
            raise ConflictError(code="upload_failed")
        if session.state is not UploadState.OPEN:
            raise ConflictError(code="upload_not_open")
        attempt = replace(with_targets(session, asked), device=device)
        if session.composed:
            self._keep(replace(attempt, state=UploadState.COMPLETING))
            if not self.commit_later(lambda: self._compose(session.id)):
                self._compose(session.id)
            return
        sealed = self._sealed(attempt)
        self._keep(replace(sealed, state=UploadState.COMMITTING))
        if not self.commit_later(lambda: self.commit(session.id)):
            self.commit(session.id)

    def _compose(self, session_id: str) -> None:
        """Put a content together and commit it, or have the whole sent: the session is open again then."""
        session = self.sessions[session_id]
        try:
            sealed = self._composed(session)
        except ConflictError as error:
            if error.code == "delta_refused":
                self._forget_parts(session)
                session = by_bytes(session, self.sizes)
            missing = tuple(error.extra.get("missing", ()))
            again = replace(session, state=UploadState.OPEN, code=error.code, detail=error.detail)
            self._keep(replace(again, missing=missing))
            return
        self._keep(replace(sealed, state=UploadState.COMMITTING))
        self.commit(session_id)

    def _composed(self, session: Session) -> Session:
        entry = session.entries[0]
        source = entry.delta
        assert source is not None
        made = self.store.size(entry.key) != entry.size
        if made and session.in_parts is not None:
            self._join(session)
        if made and self.store.size(source.key) != source.size:
            raise missing_error("bytes_missing", [entry.index])
        if made:
            content = deltas.composed(entry, source, self.store.objects)
            if content is None or self.whim(Whim.REFUSES):
                raise ConflictError(code="delta_refused")
            self.store.objects[entry.key] = content
        self.store.objects.pop(source.key, None)
        verified = made or (entry.sealed and entry.verified)
        return session.with_entries([replace(entry, sealed=True, verified=verified)])

    def _sealed(self, session: Session) -> Session:
        """Return the session with what it asks for sealed; only what the store holds is believed."""
        if session.multipart and not session.entries[0].sealed:
            entry = session.entries[0]
            self._join(session)
            return session.with_entries([replace(entry, sealed=True)])
        wanted = [entry for entry in session.asked() if not entry.sealed]
        missing = [e.index for e in wanted if self.store.size(e.key) != e.size]
        if missing:
            raise missing_error("bytes_missing", missing)
        return session.with_entries(replace(entry, sealed=True, verified=True) for entry in wanted)

    def _join(self, session: Session) -> None:
        key = _travelling(session).key
        held = self.store.parts.get(key, {})
        numbers = range(1, session.parts_total + 1)
        missing = [n for n in numbers if n not in held or (session.id, n) not in self.digests]
        if missing and key not in self.store.objects:
            self.recorded.difference_update((session.id, number) for number in missing)
            self._counted(self.sessions[session.id])
            raise missing_error("parts_missing", missing)
        if not missing:
            self.store.objects[key] = b"".join(held[number] for number in numbers)
            self.store.parts.pop(key)

    def commit(self, session_id: str) -> None:
        """What metadata does with the completion, and what upload does with the answer; repeatable."""
        session = self.sessions[session_id]
        if session.state is not UploadState.COMMITTING:
            return
        event = announce.completed(session)
        upload = UploadRef(session.id, session.attempt)
        ops = tuple(CommitFile(upload, entry) for entry in event.entries)
        results = self.change(Job(Actor(USER, session.device.id, session.device.name), ops, upload))
        self._keep(settled(session, results, Refill(self.space.new_id, self.sizes)))

    def _answered(self, session: Session, targets: Mapping[int, tree.CommitTarget]) -> tuple[int, BaseModel]:
        if session.pending:
            return 202, api.CompleteReply(upload_id=session.id, state=session.state)
        todo = plan(session, targets)
        results = [todo.answered.get(index) or session.entries[index].result for index in sorted(targets)]
        known = [result for result in results if result is not None]
        if len(known) < len(results):
            raise _why_open(session)
        if not session.batch and known[0].code is not None:
            raise error_from_code(known[0].code, known[0].detail or "", **known[0].error_extra())
        return 200, api.CompleteReply(upload_id=session.id, state=session.state, results=known)

    # Accounts ---------------------------------------------------------------------------------

    def refresh(self, asked: "_Asked") -> tuple[int, BaseModel]:
        device = asked.body.refresh_token.get_secret_value()
        return 200, tokens(device)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request, taken apart."""

    request: Request
    path: Mapping[str, str]
    body: Any

    @property
    def device_id(self) -> str:
        return device_id(self.request.device)

    @property
    def device(self) -> Device:
        return Device(self.device_id, self.request.device)


def _entry_to_put(session: Session, index: int) -> Entry:
    entry = next((entry for entry in session.entries if entry.index == index), None)
    if entry is None or not entry.needs_put():
        raise InvalidRequestError(f"Entry {index} has nothing to send in one request")
    return entry


def _travelling(session: Session) -> Travelling:
    assert session.in_parts is not None
    return session.in_parts


def _check_in_parts(session: Session, asked: api.UrlsRequest | api.PartsRequest) -> None:
    travelling = session.in_parts
    if travelling is None and asked.delta is None and not session.composed:
        raise InvalidRequestError("The bytes of this session do not travel in parts")
    if travelling is None or travelling.delta != asked.delta:
        raise ConflictError(code="upload_changed")
    if not all(1 <= number <= session.parts_total for number in asked.parts or ()):
        raise InvalidRequestError(f"Parts have numbers from 1 to {session.parts_total}")


def _why_open(session: Session) -> ConflictError:
    """Return why a session is open again without a result."""
    if session.code == "bytes_missing":
        return missing_error(session.code, list(session.missing))
    return ConflictError(code=session.code or "upload_not_open")


def device_id(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:24]


def tokens(device: str) -> api.Tokens:
    """Return tokens by which a device is known: its name."""
    return api.Tokens(
        access_token=device, expires_in=900, refresh_token=device, user_id=USER,
        device_id=device_id(device), device_name=device, namespace_id=ROOT,
    )  # fmt: skip


_HANDLERS: Final[Mapping[str, Callable[[Server, _Asked], tuple[int, BaseModel | None]]]] = {
    "refresh": Server.refresh,
    "sync": Server.sync,
    "tree_batch": Server.tree_batch,
    "list_files": Server.list_files,
    "get_file": Server.get_file,
    "download": Server.download,
    "download_delta": Server.download_delta,
    "part_digests": Server.part_digests,
    "download_batch": Server.download_batch,
    "create_upload": Server.create_upload,
    "create_upload_batch": Server.create_upload_batch,
    "get_upload": Server.get_upload,
    "list_uploads": Server.list_uploads,
    "abort_upload": Server.abort_upload,
    "upload_urls": Server.upload_urls,
    "record_parts": Server.record_parts,
    "complete_upload": Server.complete_upload,
    "complete_upload_batch": Server.complete_upload_batch,
}
_PATTERNS: Final = [
    (re.compile(re.sub(r"{(\w+)}", r"(?P<\1>[^/]+)", endpoint.path)), endpoint)
    for endpoint in ENDPOINTS
    if endpoint.name in _HANDLERS
]


def _route(request: Request) -> tuple[Endpoint, Mapping[str, str]]:
    for pattern, endpoint in _PATTERNS:
        found = pattern.fullmatch(request.path)
        if found and endpoint.method == request.method:
            return endpoint, found.groupdict()
    raise AssertionError(f"the simulated server has no {request.method} {request.path}")


def _parsed(model: type[BaseModel], body: bytes) -> BaseModel:
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise from_validation(error) from error
