"""A small Hugging Face Hub on loopback.

It has what huggingface_hub needs to make model and dataset repositories, to commit files (regular
and LFS) and to list and download them again.

    with hub_server() as hub:
        # HF_ENDPOINT, HF_TOKEN, a cache of its own
        subprocess.run(..., env=hub.environment(tmp_path))
    hub.files("dataset", "tester/name")                         # {path: bytes} of the main branch

Repositories live in memory. Writing needs the token; names, commits and large files are checked as
the Hub checks them. The Xet protocol is left out: environment() switches it off, and the client
falls back to LFS.
"""

import base64
import contextlib
import hashlib
import json
import os
import re
import threading
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import yaml

TOKEN = "hf_loopback_test_token"
USER = "tester"
LARGE = (".parquet", ".safetensors", ".bin", ".skops", ".png")
NAME = r"(?P<id>[\w.-]+/[\w.-]+)"
API = rf"/api/(?P<type>model|dataset)s/{NAME}"
PLAIN = rf"/(?P<prefix>datasets/)?{NAME}"


def blob_id(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def file_info(path, content):
    info = {"type": "file", "path": path, "size": len(content), "oid": blob_id(content)}
    if path.endswith(LARGE):
        info["lfs"] = {
            "oid": hashlib.sha256(content).hexdigest(),
            "size": len(content),
            "pointerSize": 134,
        }
    return info


class Refusal(Exception):
    """Status, the Hub's error code and message."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def log_message(self, *_):
        pass

    def handle_any(self):
        path = unquote(urlsplit(self.path).path)
        body = self.read_body()
        self.server.log.append((self.command, path))
        try:
            if self.server.refuse and self.command != "GET":
                raise Refusal(*self.server.refuse)
            for method, pattern, action in ROUTES:
                match = re.fullmatch(pattern, path)
                if match and self.command in method.split():
                    with self.server.guard:
                        return action(self, match.groupdict(), body)
            raise Refusal(404, "", f"no such page {path}")
        except Refusal as refusal:
            status, code, message = refusal.args
            headers = {"X-Error-Code": code} if code else {}
            self.answer({"error": message}, status, headers | {"X-Error-Message": message})

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any

    def read_body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            chunks = []
            while size := int(self.rfile.readline(), 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def answer(self, content, status=200, headers=()):
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {
            "Content-Length": len(content),
            "Content-Type": "application/json",
            **dict(headers),
        }.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.wfile.write(content)

    def need_token(self):
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise Refusal(401, "", "Invalid credentials in Authorization header")

    def repo(self, names):
        kind = names.get("type") or ("dataset" if names.get("prefix") else "model")
        repo = self.server.repos.get((kind, names["id"]))
        if repo is None:
            raise Refusal(
                404 if self.headers.get("Authorization") else 401,
                "RepoNotFound",
                "Repository not found",
            )
        return repo

    def commit_of(self, names):
        repo, revision = self.repo(names), names.get("revision") or "main"
        for commit in reversed(repo):
            if revision.removeprefix("refs/heads/") in (
                commit.get("branch", "main"),
                commit["oid"],
            ):
                return commit
        raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")

    # Repositories

    def whoami(self, names, body):
        self.need_token()
        access = {"displayName": "test", "role": "write"}
        self.answer(
            {
                "type": "user",
                "name": USER,
                "orgs": [],
                "auth": {"type": "access_token", "accessToken": access},
            }
        )

    def create(self, names, body):
        self.need_token()
        asked = json.loads(body)
        kind, owner = asked.get("type") or "model", asked.get("organization") or USER
        if owner != USER:
            raise Refusal(
                403,
                "",
                f"You don't have the rights to create a {kind} under the namespace {owner!r}",
            )
        identifier = f"{owner}/{asked['name']}"
        url = f"{self.server.url}/{'datasets/' if kind == 'dataset' else ''}{identifier}"
        known = (kind, identifier) in self.server.repos
        if not known:
            attributes = b"".join(
                b"*%s filter=lfs diff=lfs merge=lfs -text\n" % end.encode() for end in LARGE
            )
            self.server.repos[kind, identifier] = []
            self.add_commit((kind, identifier), {".gitattributes": attributes}, "initial commit")
        self.answer({"url": url, "name": identifier, "id": identifier}, 409 if known else 200)

    def add_commit(self, key, files, message, branch="main"):
        commits = self.server.repos[key]
        text = json.dumps(
            [key, message, len(commits), sorted((p, blob_id(c)) for p, c in files.items())]
        )
        oid = hashlib.sha1(text.encode()).hexdigest()
        commits.append({"oid": oid, "files": files, "message": message, "branch": branch})
        return oid

    def create_branch(self, names, body):
        self.need_token()
        known = {commit.get("branch", "main") for commit in self.repo(names)}
        if names["branch"] in known:
            raise Refusal(409, "", f"Reference already exists: refs/heads/{names['branch']}")
        files = self.commit_of(names)["files"]
        self.add_commit((names["type"], names["id"]), files, "branch", names["branch"])
        self.answer({})

    def delete(self, names, body):
        self.need_token()
        asked = json.loads(body)
        identifier = f"{asked.get('organization') or USER}/{asked['name']}"
        if self.server.repos.pop((asked.get("type") or "model", identifier), None) is None:
            raise Refusal(404, "RepoNotFound", "Repository not found")
        self.answer({})

    def check_yaml(self, names, body):
        asked = json.loads(body)
        match = re.match(r"---\r?\n(.*?)\r?\n---", asked["content"], re.DOTALL)
        try:
            known = yaml.safe_load(match[1]) if match else {}
            errors = [] if isinstance(known, dict) else [{"message": "metadata is no mapping"}]
        except yaml.YAMLError as error:
            errors = [{"message": str(error)}]
        self.answer({"errors": errors, "warnings": []}, 400 if errors else 200)

    # Writing

    def preupload(self, names, body):
        self.need_token()
        files = self.commit_of(names)["files"]
        modes = []
        for item in json.loads(body)["files"]:
            content = files.get(item["path"])
            known = content is not None and file_info(item["path"], content)
            modes.append(
                {
                    "path": item["path"],
                    "uploadMode": "lfs" if item["path"].endswith(LARGE) else "regular",
                    "shouldIgnore": False,
                    "oid": (known["lfs"]["oid"] if "lfs" in known else known["oid"])
                    if known
                    else None,
                }
            )
        self.answer({"files": modes})

    def batch(self, names, body):
        self.need_token()
        self.repo(names)
        objects = []
        for item in json.loads(body)["objects"]:
            entry = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.server.large:
                upload = {"href": f"{self.server.url}/lfs/{item['oid']}"}
                entry["actions"] = {
                    "upload": upload,
                    "verify": {"href": f"{self.server.url}/lfs/verify"},
                }
            objects.append(entry)
        self.answer({"transfer": "basic", "objects": objects})

    def put_large(self, names, body):
        if hashlib.sha256(body).hexdigest() != names["oid"]:
            raise Refusal(400, "", "the content does not have this SHA-256")
        self.server.large[names["oid"]] = body
        self.answer({})

    def verify(self, names, body):
        self.need_token()
        asked = json.loads(body)
        if len(self.server.large.get(asked["oid"], b"")) != asked["size"]:
            raise Refusal(404, "", "object not found")
        self.answer({})

    def commit(self, names, body):
        self.need_token()
        files, summary = dict(self.commit_of(names)["files"]), ""
        for line in body.splitlines():
            key, value = (item := json.loads(line))["key"], item["value"]
            if key == "header":
                summary = value["summary"]
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                if value["oid"] not in self.server.large:
                    raise Refusal(400, "", f"LFS object {value['oid']} was not uploaded")
                files[value["path"]] = self.server.large[value["oid"]]
            elif key == "deletedFile":
                files.pop(value["path"], None)
            elif key == "deletedFolder":
                files = {
                    path: c
                    for path, c in files.items()
                    if not path.startswith(value["path"].rstrip("/") + "/")
                }
        key = (names["type"], names["id"])
        oid = self.add_commit(key, files, summary, unquote(names["revision"]))
        url = f"{self.server.url}/{'datasets/' if key[0] == 'dataset' else ''}{key[1]}/commit/{oid}"
        self.answer({"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""})

    # Reading

    def info(self, names, body):
        commit = self.commit_of(names)
        siblings = [{"rfilename": path} for path in sorted(commit["files"])]
        about = {
            "_id": commit["oid"][:24],
            "id": names["id"],
            "sha": commit["oid"],
            "siblings": siblings,
        }
        self.answer(
            about
            | {
                "private": False,
                "gated": False,
                "disabled": False,
                "tags": [],
                "downloads": 0,
                "likes": 0,
            }
        )

    def tree(self, names, body):
        commit, under = self.commit_of(names), names.get("path") or ""
        prefix = under + "/" if under else ""
        found = {
            path: content for path, content in commit["files"].items() if path.startswith(prefix)
        }
        if under and not found:
            raise Refusal(404, "EntryNotFound", f"{under} does not exist")
        folders = {
            path[: k + len(prefix)]
            for path in found
            for k, c in enumerate(path[len(prefix) :])
            if c == "/"
        }
        entries = [
            {"type": "directory", "path": name, "size": 0, "oid": blob_id(name.encode())}
            for name in folders
        ]
        entries += [file_info(path, content) for path, content in found.items()]
        if "recursive=1" not in self.path.lower().replace("true", "1"):
            entries = [entry for entry in entries if "/" not in entry["path"][len(prefix) :]]
        self.answer(sorted(entries, key=lambda entry: entry["path"]))

    def paths_info(self, names, body):
        commit = self.commit_of(names)
        if self.headers.get("Content-Type", "").startswith("application/json"):
            asked = json.loads(body)["paths"]
        else:
            asked = [
                unquote(value.replace("+", " "))
                for value in re.findall(r"paths=([^&]*)", body.decode())
            ]
        answers = []
        for path in [asked] if isinstance(asked, str) else asked:
            if path in commit["files"]:
                answers.append(file_info(path, commit["files"][path]))
            elif any(name.startswith(path.rstrip("/") + "/") for name in commit["files"]):
                answers.append(
                    {"type": "directory", "path": path, "size": 0, "oid": blob_id(path.encode())}
                )
        self.answer(answers)

    def refs(self, names, body):
        branch = {
            "name": "main",
            "ref": "refs/heads/main",
            "targetCommit": self.commit_of(names)["oid"],
        }
        self.answer({"branches": [branch], "converts": [], "tags": [], "pullRequests": []})

    def commits(self, names, body):
        moment = "2026-01-01T00:00:00.000Z"
        self.answer(
            [
                {
                    "id": c["oid"],
                    "title": c["message"],
                    "message": "",
                    "date": moment,
                    "authors": [{"user": USER}],
                }
                for c in reversed(self.repo(names))
            ]
        )

    def resolve(self, names, body):
        commit = self.commit_of(names)
        if names["path"] not in commit["files"]:
            raise Refusal(404, "EntryNotFound", f"{names['path']} does not exist")
        content = commit["files"][names["path"]]
        info = file_info(names["path"], content)
        etag = info["lfs"]["oid"] if "lfs" in info else info["oid"]
        headers = {"X-Repo-Commit": commit["oid"], "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        headers |= {
            "Content-Type": "application/octet-stream",
            "Last-Modified": formatdate(0, usegmt=True),
        }
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked:
            start, end = int(asked[1]), min(int(asked[2] or len(content) - 1), len(content) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
            return self.answer(content[start : end + 1], 206, headers)
        self.answer(content, 200, headers)


ROUTES = [
    ("GET", "/api/whoami-v2", Handler.whoami),
    ("POST", "/api/repos/create", Handler.create),
    ("DELETE", "/api/repos/delete", Handler.delete),
    ("POST", "/api/validate-yaml", Handler.check_yaml),
    ("POST", rf"{API}/preupload/(?P<revision>.+)", Handler.preupload),
    ("POST", rf"{PLAIN}\.git/info/lfs/objects/batch", Handler.batch),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", Handler.put_large),
    ("POST", "/lfs/verify", Handler.verify),
    ("POST", rf"{API}/commit/(?P<revision>.+)", Handler.commit),
    ("POST", rf"{API}/branch/(?P<branch>.+)", Handler.create_branch),
    ("GET", rf"{API}(/revision/(?P<revision>.+))?", Handler.info),
    ("GET", rf"{API}/tree/(?P<revision>[^/]+)(/(?P<path>.+))?", Handler.tree),
    ("POST", rf"{API}/paths-info/(?P<revision>.+)", Handler.paths_info),
    ("GET", rf"{API}/refs", Handler.refs),
    ("GET", rf"{API}/commits/(?P<revision>.+)", Handler.commits),
    ("GET HEAD", rf"{PLAIN}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", Handler.resolve),
]


@contextlib.contextmanager
def hub_server():
    """Serve an empty Hub; yields the server: url, repos, log, files(), environment(), refuse.

    refuse = (status, code, message) makes every request but GET fail so.
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    server.repos, server.large, server.log, server.refuse = {}, {}, [], None
    server.guard = threading.Lock()
    server.files = lambda kind, name: server.repos[kind, name][-1]["files"]
    server.environment = lambda home, token=TOKEN: {
        **{
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))
        },
        **{
            "HF_ENDPOINT": server.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        },
        **({"HF_TOKEN": token} if token else {}),
        "NO_PROXY": "127.0.0.1",
    }
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
    )
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
