"""A Hub on the loopback: what huggingface_hub and datasets ask of it, kept in memory.

    with Hub() as hub:          # HF_ENDPOINT = hub.url
        hub.faults["commit"] = [503]
        ...
        hub.repos["me/pairs"].tags

Datasets only. Large files arrive by Git LFS, or by Xet (see xet_store.py); a file is the same either way.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

from fakes.xet_store import XetStore

ACCOUNT = "me"


@dataclass(frozen=True)
class File:
    """Content at a path. `lfs` files are known by their sha256, others by their git blob id."""

    content: bytes
    lfs: bool

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def oid(self) -> str:
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.content)}\n"
        blob = pointer.encode() if self.lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest()


@dataclass
class Repo:
    """Commits by id, each the whole tree; `refs` are branches and tags."""

    private: bool
    gated: Any = False
    commits: dict[str, dict[str, File]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, File], message: str, branch: str = "main") -> str:
        tree = json.dumps([len(self.commits), sorted((path, file.oid) for path, file in files.items())])
        sha = hashlib.sha1(tree.encode()).hexdigest()
        self.commits[sha] = files
        self.messages.append(message)
        self.branches[branch] = sha
        return sha

    def find(self, revision: str) -> str | None:
        revision = unquote(revision)
        sha = self.branches.get(revision) or self.tags.get(revision) or revision
        return sha if sha in self.commits else None

    def files(self, revision: str = "main") -> dict[str, File]:
        sha = self.find(revision)
        assert sha is not None, revision
        return self.commits[sha]


class Hub:
    """The server. `faults` maps an endpoint's name to the statuses of its next answers, `asked` lists what came in."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.xet = XetStore()
        self.faults: dict[str, list[int]] = {}
        self.lost_answers: dict[str, int] = {}
        self.asked: list[str] = []
        self.before: dict[str, Callable[[], None]] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Refused(Exception):
    def __init__(self, status: int, reason: str, **body: Any) -> None:
        self.status, self.body, self.reason = status, {"error": reason, **body}, reason


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_PUT = do_HEAD = do_DELETE = do_GET

    def _serve(self) -> None:
        url = urlsplit(self.path)
        self.query = {key: values[0] for key, values in parse_qs(url.query).items()}
        self.body = self._read()
        matches = (
            (name, handle, found)
            for name, methods, pattern, handle in _ROUTES
            if self.command in methods.split() and (found := re.fullmatch(pattern, url.path))
        )
        name, handle, found = next(matches, (None, None, None))
        if name is None or handle is None or found is None:
            return self._send(404, {"error": f"no route for {self.command} {url.path}"})
        self.hub.asked.append(name)
        try:
            if action := self.hub.before.pop(name, None):
                action()
            if statuses := self.hub.faults.get(name):
                raise _Refused(statuses.pop(0), "out of order")
            handle(self, *found.groups())
        except _Refused as refused:
            headers = {"X-Error-Code": refused.body.pop("code")} if "code" in refused.body else {}
            self._send(refused.status, refused.body, {"X-Error-Message": refused.reason, **headers})
        return None

    def _read(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _send(self, status: int, body: Any = None, headers: dict[str, str] | None = None) -> None:
        content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        headers = {"Content-Type": "application/json", "Content-Length": str(len(content)), **(headers or {})}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self) -> Any:
        return json.loads(self.body or b"{}")

    def _repo(self, name: str) -> Repo:
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and not self.headers.get("Authorization")):
            raise _Refused(404, "Repository not found", code="RepoNotFound")
        return repo

    def _commit(self, name: str, revision: str) -> tuple[Repo, str]:
        repo = self._repo(name)
        sha = repo.find(revision)
        if sha is None:
            raise _Refused(404, f"Invalid rev id: {revision}", code="RevisionNotFound")
        return repo, sha

    def whoami(self) -> None:
        if not self.headers.get("Authorization"):
            raise _Refused(401, "Invalid user token.")
        self._send(200, {"name": ACCOUNT, "type": "user", "orgs": [], "auth": {"accessToken": {"role": "write"}}})

    def create(self) -> None:
        asked = self._json()
        name = f"{asked.get('organization') or ACCOUNT}/{asked['name']}"
        url = f"{self.hub.url}/datasets/{name}"
        if name in self.hub.repos:
            raise _Refused(409, "You already created this dataset repo", url=url)
        repo = self.hub.repos[name] = Repo(private=asked.get("private", asked.get("visibility") == "private"))
        repo.commit({".gitattributes": File(b"*.parquet filter=lfs\n", lfs=False)}, "initial commit")
        self._send(200, {"url": url, "name": name, "id": name})

    def settings(self, name: str) -> None:
        repo, asked = self._repo(name), self._json()
        repo.private = asked.get("private", asked["visibility"] == "private" if "visibility" in asked else repo.private)
        repo.gated = asked.get("gated", repo.gated)
        self._send(200, {})

    def validate_yaml(self) -> None:
        self._send(200, {"errors": [], "warnings": []})

    def preupload(self, name: str, revision: str) -> None:
        repo, sha = self._commit(name, revision)
        modes = []
        for asked in self._json()["files"]:
            old = repo.files(sha).get(asked["path"])
            mode = "lfs" if asked["path"].endswith((".parquet", ".png")) else "regular"
            oid = None if old is None else old.sha256 if old.lfs else old.oid
            modes.append({"path": asked["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._send(200, {"files": modes, "commitOid": sha})

    def lfs_batch(self, name: str) -> None:
        self._repo(name)
        objects = []
        batch = self._json()
        for asked in batch["objects"]:
            href = {"href": f"{self.hub.url}/lfs/{asked['oid']}"}
            known = asked["oid"] in self.hub.blobs
            objects.append({**asked, "authenticated": True} | ({} if known else {"actions": {"upload": href}}))
        way = "xet" if "xet" in batch.get("transfers", ()) else "basic"  # clients before 2.0 ask for it here
        self._send(200, {"transfer": way, "objects": objects})

    def lfs_put(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise _Refused(400, "the content is not what was announced")
        self.hub.blobs[oid] = self.body
        self._send(200)

    def commit(self, name: str, revision: str) -> None:
        repo, head = self._commit(name, revision)
        lines = [json.loads(line) for line in self.body.splitlines()]
        header = lines[0]["value"]
        if header.get("parentCommit", head) != head:
            raise _Refused(412, "A commit has happened since. Please refresh and try again.")
        files = dict(repo.files(head))
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "deletedFile":
                del files[value["path"]]
            elif line["key"] == "file":
                files[value["path"]] = File(base64.b64decode(value["content"]), lfs=False)
            else:
                content = self.hub.blobs.get(value["oid"]) or self.hub.xet.content(value["oid"])
                if content is None:
                    raise _Refused(400, f"{value['path']} was never uploaded")
                files[value["path"]] = File(content, lfs=True)
        sha = repo.commit(files, header["summary"], unquote(revision))
        if self.hub.lost_answers.get("commit"):
            self.hub.lost_answers["commit"] -= 1
            raise _Refused(503, "out of order")
        url = f"{self.hub.url}/datasets/{name}/commit/{sha}"
        self._send(200, {"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})

    def tag(self, name: str, revision: str) -> None:
        repo, sha = self._commit(name, revision)
        tag = self._json()["tag"]
        if tag in repo.tags:
            raise _Refused(409, f"Tag {tag} already exists")
        repo.tags[tag] = sha
        self._send(200, {})

    def branch(self, name: str, branch: str) -> None:
        repo, sha = self._commit(name, self._json().get("startingPoint", "main"))
        repo.branches[unquote(branch)] = sha
        self._send(200, {})

    def refs(self, name: str) -> None:
        repo = self._repo(name)

        def described(kind: str, refs: dict[str, str]) -> list[dict[str, str]]:
            return [{"name": key, "ref": f"refs/{kind}/{key}", "targetCommit": sha} for key, sha in refs.items()]

        answer = {"branches": described("heads", repo.branches), "tags": described("tags", repo.tags), "converts": []}
        self._send(200, answer)

    def info(self, name: str, revision: str | None = None) -> None:
        repo, sha = self._commit(name, revision or "main")
        siblings = [{"rfilename": path} for path in repo.files(sha)]
        answer = {
            "id": name,
            "author": name.split("/", maxsplit=1)[0],
            "sha": sha,
            "private": repo.private,
            "gated": repo.gated,
        }
        moment = {"lastModified": "2026-11-01T00:00:00.000Z", "createdAt": "2026-11-01T00:00:00.000Z"}
        self._send(200, answer | moment | {"siblings": siblings, "tags": [], "downloads": 0, "likes": 0})

    def tree(self, name: str, revision: str, folder: str | None) -> None:
        repo, sha = self._commit(name, revision)
        prefix = f"{unquote(folder or '').strip('/')}/".lstrip("/")
        deep = self.query.get("recursive", "").lower() in {"true", "1"}
        entries: dict[str, Any] = {}
        for path, file in sorted(repo.files(sha).items()):
            if not path.startswith(prefix):
                continue
            below = path[len(prefix) :].split("/")
            for depth in range(1, len(below)):
                parent = prefix + "/".join(below[:depth])
                if deep or depth == 1:
                    entries[parent] = {"type": "directory", "path": parent, "oid": "0" * 40, "size": 0}
            if deep or len(below) == 1:
                entries[path] = self._entry(path, file)
        if prefix and not entries:
            raise _Refused(404, f"{prefix} does not exist", code="EntryNotFound")
        self._send(200, list(entries.values()))

    def paths_info(self, name: str, revision: str) -> None:
        repo, sha = self._commit(name, revision)
        asked = self._json() if self.body.startswith(b"{") else parse_qs(self.body.decode())
        files = repo.files(sha)
        found = []
        for path in asked["paths"]:
            if path in files:
                found.append(self._entry(path, files[path]))
            elif any(other.startswith(f"{path}/") for other in files):
                found.append({"type": "directory", "path": path, "oid": "0" * 40, "size": 0})
        self._send(200, found)

    def _entry(self, path: str, file: File) -> dict[str, Any]:
        entry = {"type": "file", "path": path, "size": len(file.content), "oid": file.oid}
        if not file.lfs:
            return entry
        xet = self.hub.xet.file_hash(file.sha256)
        return (
            entry
            | {"lfs": {"oid": file.sha256, "size": len(file.content), "pointerSize": 134}}
            | ({"xetHash": xet} if xet else {})
        )

    def resolve(self, name: str, revision: str, path: str) -> None:
        repo, sha = self._commit(name, revision)
        file = repo.files(sha).get(unquote(path))
        if file is None:
            raise _Refused(404, "Entry not found", code="EntryNotFound")
        etag = f'"{file.sha256 if file.lfs else file.oid}"'
        headers = {"X-Repo-Commit": sha, "ETag": etag, "Content-Type": "application/octet-stream"}
        if file.lfs:
            headers |= {"X-Linked-Etag": etag, "X-Linked-Size": str(len(file.content))}
            if xet := self.hub.xet.file_hash(file.sha256):
                route = f"{self.hub.url}/api/datasets/{name}/xet-read-token/{sha}"
                headers |= {"X-Xet-Hash": xet, "X-Xet-Refresh-Route": route}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted:
            first, last = int(wanted[1]), min(int(wanted[2] or 1 << 60), len(file.content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(file.content)}"
            return self._send(206, file.content[first : last + 1], headers)
        return self._send(200, file.content, headers)

    def xet_token(self, name: str) -> None:
        self._repo(name)
        url, expiry = f"{self.hub.url}/xet", int(time.time()) + 3600
        headers = {"X-Xet-Cas-Url": url, "X-Xet-Access-Token": "xet", "X-Xet-Token-Expiration": str(expiry)}
        self._send(200, {"casUrl": url, "accessToken": "xet", "exp": expiry}, headers)

    def xet_call(self, rest: str) -> None:
        wanted = self.headers.get("Range")
        status, body, headers = self.hub.xet.answer(self.command, rest, self.body, wanted, f"{self.hub.url}/xet")
        self._send(status, body, headers)


_NAME = r"([^/]+/[^/]+)"
_REV = r"([^/]+)"
_ROUTES: list[tuple[str, str, str, Callable[..., None]]] = [
    ("whoami", "GET", r"/api/whoami-v2", _Handler.whoami),
    ("create", "POST", r"/api/repos/create", _Handler.create),
    ("validate-yaml", "POST", r"/api/validate-yaml", _Handler.validate_yaml),
    ("settings", "PUT", rf"/api/datasets/{_NAME}/settings", _Handler.settings),
    ("preupload", "POST", rf"/api/datasets/{_NAME}/preupload/{_REV}", _Handler.preupload),
    ("lfs-batch", "POST", rf"/datasets/{_NAME}\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    ("lfs-put", "PUT", r"/lfs/(\w+)", _Handler.lfs_put),
    ("commit", "POST", rf"/api/datasets/{_NAME}/commit/{_REV}", _Handler.commit),
    ("tag", "POST", rf"/api/datasets/{_NAME}/tag/{_REV}", _Handler.tag),
    ("branch", "POST", rf"/api/datasets/{_NAME}/branch/{_REV}", _Handler.branch),
    ("refs", "GET", rf"/api/datasets/{_NAME}/refs", _Handler.refs),
    ("info", "GET", rf"/api/datasets/{_NAME}", _Handler.info),
    ("info", "GET", rf"/api/datasets/{_NAME}/revision/{_REV}", _Handler.info),
    ("tree", "GET", rf"/api/datasets/{_NAME}/tree/{_REV}(/.*)?", _Handler.tree),
    ("paths-info", "POST", rf"/api/datasets/{_NAME}/paths-info/{_REV}", _Handler.paths_info),
    ("resolve", "GET HEAD", rf"/datasets/{_NAME}/resolve/{_REV}/(.+)", _Handler.resolve),
    ("xet-token", "GET", rf"/api/datasets/{_NAME}/xet-(?:read|write)-token/.+", _Handler.xet_token),
    ("xet", "GET POST HEAD", r"/xet(/.*)", _Handler.xet_call),
]
