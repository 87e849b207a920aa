"""A double of the Hub on the loopback address: the part of its protocol that real clients speak to publish and load.

Written from what huggingface_hub, transformers, datasets and evaluate send, in plain HTTP: repositories with commits,
branches and tags, LFS objects behind a redirect with byte ranges, cards checked, tokens asked for, errors with codes.
It can refuse uploads and cut downloads, to see what becomes of both. Not in it: Xet, quotas, scans, viewer, builds.
"""

import base64
import contextlib
import dataclasses
import hashlib
import json
import os
import re
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml

TOKEN = "hf_" + "loopback" * 4
PREFIXES = {"datasets/": "dataset", "spaces/": "space", "": "model"}
LFS_SUFFIXES = (".safetensors", ".parquet", ".mp3", ".png", ".mid")
LICENSES = ("apache-2.0", "mit", "cc0-1.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "other")


@dataclasses.dataclass
class Repository:
    """Commits, oldest first: (id, path -> content)."""

    kind: str
    name: str
    private: bool
    commits: list = dataclasses.field(default_factory=list)
    tags: dict = dataclasses.field(default_factory=dict)

    def commit(self, files):
        text = json.dumps([self.name, len(self.commits), sorted((p, git_id(c)) for p, c in files.items())])
        self.commits.append((hashlib.sha1(text.encode()).hexdigest(), files))

    def at(self, revision):
        """(id, files) of a branch, tag or commit; None if there is no such revision."""
        if revision == "main":
            return self.commits[-1]
        revision = self.tags.get(revision, revision)
        return next((commit for commit in self.commits if commit[0] == revision), None)


def git_id(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def is_lfs(path):
    return path.endswith(LFS_SUFFIXES)


def entry(path, content):
    """A file as the Hub lists it."""
    found = {"type": "file", "path": path, "size": len(content), "oid": git_id(content)}
    if is_lfs(path):
        found["lfs"] = {"oid": sha256(content), "size": len(content), "pointerSize": 130}
    return found


def card_problems(text):
    """What the Hub would refuse of a card's metadata."""
    match = re.match(r"---\n(.*?)\n---(\n|$)", text, re.DOTALL)
    try:
        data = yaml.safe_load(match.group(1)) if match else {}
    except yaml.YAMLError as error:
        return [f"not YAML: {error}"]
    problems = []
    licenses = data.get("license", [])
    for name in [licenses] if isinstance(licenses, str) else licenses:
        if name not in LICENSES:
            problems.append(f"license {name!r} must be one of those that the Hub knows")
    for model in data.get("model-index", []):
        for result in model["results"]:
            if not result.get("task", {}).get("type") or not result.get("dataset", {}).get("name"):
                problems.append("model-index: a task type and a dataset name are needed")
            if any(not isinstance(metric.get("value"), (int, float)) for metric in result["metrics"]):
                problems.append("model-index: a metric's value must be a number")
    for key in ("sdk", "colorFrom") if "sdk" in data else ():
        if not isinstance(data.get(key), str):
            problems.append(f"{key}: missing")
    return problems


class HubDouble:
    """Start it with `with HubDouble() as hub`; `hub.url` is its address.

    `refuse_after` is how many LFS objects are taken before one is refused, `cut` the ends of those paths whose
    next download stops half way, `log` the requests so far.
    """

    def __init__(self):
        self.repositories, self.objects = {}, {}
        self.log, self.cut, self.refuse_after = [], set(), None
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"hub": self}))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def environment(self, home, token=False, **more):
        """Variables for a process with empty caches that speaks to this double alone."""
        kept = ("PATH", "PYTHONPATH", "LANG", "OMP_NUM_THREADS", "TMPDIR", "VIRTUAL_ENV")
        return {
            **{name: os.environ[name] for name in kept if name in os.environ},
            "HOME": str(home),
            "HF_HOME": str(home / "hf"),
            "HF_ENDPOINT": self.url,
            "HF_HUB_DISABLE_XET": "1",
            "HF_UPDATE_DOWNLOAD_COUNTS": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "OMP_NUM_THREADS": "1",
            **({"HF_TOKEN": TOKEN} if token else {}),
            **more,
        }

    def sent(self, method, ending):
        """Requests so far of a method whose path ends so."""
        return [line for line in self.log if line[0] == method and line[1].endswith(ending)]


class Handler(BaseHTTPRequestHandler):
    hub: HubDouble
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def handle(self):
        with contextlib.suppress(ConnectionError):
            super().handle()

    def do_HEAD(self):
        self.answer()

    do_GET = do_POST = do_PUT = do_HEAD

    def answer(self):
        self.path, _, query = self.path.partition("?")
        self.path = urllib.parse.unquote(self.path)
        self.query = urllib.parse.parse_qs(query)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            self.body = self.chunks()
        self.hub.log.append((self.command, self.path, self.headers.get("Range")))
        for method, pattern, action in ROUTES:
            match = re.fullmatch(pattern, self.path)
            if match and self.command in method:
                return action(self, **match.groupdict())
        return self.reply({"error": f"no such route: {self.command} {self.path}"}, 404)

    def chunks(self):
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def reply(self, value, status=200, headers=None):
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        kind = "application/octet-stream" if isinstance(value, bytes) else "application/json"
        for name, text in {"Content-Type": kind, "Content-Length": len(data), **(headers or {})}.items():
            self.send_header(name, str(text))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def fail(self, status, code, message, **headers):
        self.reply({"error": message}, status, {"X-Error-Code": code, "X-Error-Message": message, **headers})

    @property
    def trusted(self):
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def repository(self, kind, name):
        found = self.hub.repositories.get((kind, name))
        if found is None or (found.private and not self.trusted):
            self.fail(401 if not self.trusted else 404, "RepoNotFound", "Repository not found")
            return None
        return found

    def revision(self, kind, name, revision):
        repository = self.repository(kind, name)
        if repository is None:
            return None, None, None
        found = repository.at(revision)
        if found is None:
            self.fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None, None, None
        return repository, *found

    # Repositories

    def create(self):
        if not self.trusted:
            return self.reply({"error": "Invalid username or password."}, 401)
        asked = json.loads(self.body)
        kind, name = asked.get("type", "model"), f"{asked['organization']}/{asked['name']}"
        if asked["organization"] != "org":
            return self.reply({"error": "You don't have the rights to create under this namespace"}, 403)
        private = asked.get("visibility") == "private" or asked.get("private") is True
        url = {"url": f"{self.hub.url}/{'' if kind == 'model' else kind + 's/'}{name}"}
        if (kind, name) in self.hub.repositories:
            return self.reply({"error": "You already created this repo", **url}, 409)
        repository = self.hub.repositories[kind, name] = Repository(kind, name, private)
        repository.commit({".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"})
        return self.reply(url)

    def whoami(self):
        if not self.trusted:
            return self.reply({"error": "Invalid username or password."}, 401)
        return self.reply({"type": "user", "name": "me", "orgs": [{"name": "org"}]})

    def validate(self):
        asked = json.loads(self.body)
        problems = card_problems(asked["content"])
        errors = [{"message": problem} for problem in problems]
        self.reply({"errors": errors, "warnings": []}, 400 if errors else 200)

    def info(self, kind, name, revision="main"):
        repository, sha, files = self.revision(kind, name, revision)
        if repository is None:
            return None
        siblings = [{"rfilename": path} for path in sorted(files)]
        return self.reply(
            {"_id": sha[:24], "id": name, "sha": sha, "private": repository.private, "siblings": siblings, "tags": [],
             "gated": False, "disabled": False, "downloads": 0, "likes": 0, "lastModified": "2026-01-01T00:00:00.000Z",
             "createdAt": "2026-01-01T00:00:00.000Z", "sdk": "gradio"}
        )  # fmt: skip

    def refs(self, kind, name):
        repository = self.repository(kind, name)
        if repository is not None:
            tags = [{"name": t, "ref": f"refs/tags/{t}", "targetCommit": c} for t, c in repository.tags.items()]
            main = {"name": "main", "ref": "refs/heads/main", "targetCommit": repository.commits[-1][0]}
            self.reply({"branches": [main], "converts": [], "tags": tags})

    def tag(self, kind, name, revision):
        repository, sha, _ = self.revision(kind, name, revision)
        if repository is None:
            return None
        asked = json.loads(self.body)["tag"]
        if asked in repository.tags:
            return self.reply({"error": "Tag reference exists already"}, 409)
        repository.tags[asked] = sha
        return self.reply({})

    def tree(self, kind, name, revision, path=""):
        _, _, files = self.revision(kind, name, revision)
        if files is None:
            return None
        inside = {p: c for p, c in files.items() if not path or p.startswith(f"{path}/")}
        if path and not inside:
            return self.fail(404, "EntryNotFound", f"{path} does not exist on {revision}")
        depth = path.count("/") + 1 if path else 0
        found = []
        folders = {p.rsplit("/", n)[0] for p in inside for n in range(1, p.count("/") + 1)}
        recursive = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        for folder in sorted(folders):
            if (recursive or folder.count("/") == depth) and folder != path and folder.startswith(path):
                found.append({"type": "directory", "path": folder, "size": 0, "oid": git_id(folder.encode())})
        found += [entry(p, c) for p, c in sorted(inside.items()) if recursive or p.count("/") == depth]
        return self.reply(found)

    def paths_info(self, kind, name, revision):
        _, _, files = self.revision(kind, name, revision)
        if files is None:
            return None
        if "json" in self.headers.get("Content-Type", ""):
            paths = json.loads(self.body)["paths"]
        else:
            paths = urllib.parse.parse_qs(self.body.decode())["paths"]
        found = [entry(p, files[p]) for p in paths if p in files]
        for path in paths:
            if path not in files and any(p.startswith(f"{path}/") for p in files):
                found.append({"type": "directory", "path": path, "size": 0, "oid": git_id(path.encode())})
        return self.reply(found)

    # Uploads

    def preupload(self, kind, name, revision):
        _, _, files = self.revision(kind, name, revision)
        if files is None:
            return None
        answers = []
        for file in json.loads(self.body)["files"]:
            path = file["path"]
            mode = "lfs" if is_lfs(path) else "regular"
            # The git id of what is there; of an LFS file, the SHA-256.
            there = {"oid": (sha256 if is_lfs(path) else git_id)(files[path])} if path in files else {}
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, **there})
        return self.reply({"files": answers})

    def batch(self, kind, name):
        if self.repository(kind, name) is None:
            return None
        answers = []
        for wanted in json.loads(self.body)["objects"]:
            answer = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.hub.objects:
                answer["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{wanted['oid']}"}}
            answers.append(answer)
        return self.reply({"transfer": "basic", "objects": answers}, headers={"Content-Type": "application/json"})

    def put(self, oid):
        if self.hub.refuse_after is not None:
            if self.hub.refuse_after == 0:
                self.hub.refuse_after = None
                return self.reply({"error": "Insufficient storage"}, 507)
            self.hub.refuse_after -= 1
        if sha256(self.body) != oid:
            return self.reply({"error": "checksum"}, 400)
        self.hub.objects[oid] = self.body
        return self.reply(b"")

    def commit(self, kind, name, revision):
        repository, _, files = self.revision(kind, name, revision)
        if repository is None:
            return None
        if not self.trusted:
            return self.reply({"error": "Forbidden"}, 403)
        files = dict(files)
        for line in self.body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif operation["key"] == "deletedFile":
                del files[value["path"]]
        problems = card_problems(files.get("README.md", b"").decode())
        if problems:
            return self.reply({"error": f"Invalid metadata in README.md: {problems}"}, 400)
        repository.commit(files)
        sha = repository.commits[-1][0]
        url = f"{self.hub.url}/{name}/commit/{sha}"
        return self.reply({"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})

    # Downloads

    def resolve(self, kind, name, revision, path):
        repository, sha, files = self.revision(kind, name, revision)
        if repository is None:
            return None
        if path not in files:
            return self.fail(404, "EntryNotFound", "Entry not found", **{"X-Repo-Commit": sha})
        content, commit = files[path], {"X-Repo-Commit": sha}
        if is_lfs(path):
            etag = f'"{sha256(content)}"'
            self.hub.objects.setdefault(sha256(content), content)
            linked = {"X-Linked-Etag": etag, "X-Linked-Size": len(content), "ETag": etag}
            # Another host, as the Hub's large files have: the client takes what it needs to know from this answer.
            location = f"http://localhost:{self.server.server_port}/cdn/{sha256(content)}/{path}"
            return self.reply(b"", 302, {"Location": location, **commit, **linked})
        return self.serve(content, {"ETag": f'"{git_id(content)}"', **commit})

    def cdn(self, oid, path):
        self.serve(self.hub.objects[oid], {"ETag": f'"{oid}"'})

    def serve(self, content, headers):
        status, headers = 200, {"Accept-Ranges": "bytes", **headers}
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if match:
            start, stop = int(match[1]), min(int(match[2] or len(content) - 1), len(content) - 1) + 1
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
            status, content = 206, content[start:stop]
        ending = next((end for end in self.hub.cut if self.path.endswith(end)), None)
        if ending is None or self.command == "HEAD":
            return self.reply(content, status, headers)
        self.hub.cut.discard(ending)
        self.send_response(status)
        for name, text in {"Content-Length": len(content), **headers}.items():
            self.send_header(name, str(text))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2])
        self.wfile.flush()
        self.close_connection = True
        return None


def routes():
    """(methods, pattern of the path, what answers), with a row for each kind of repository."""
    name, rev = r"(?P<name>[\w.-]+/[\w.-]+)", r"(?P<revision>[^/]+)"
    yield ("POST",), "/api/repos/create", Handler.create
    yield ("POST",), "/api/validate-yaml", Handler.validate
    yield ("GET",), "/api/whoami-v2", Handler.whoami
    yield ("PUT",), r"/lfs/(?P<oid>\w+)", Handler.put
    yield ("GET", "HEAD"), r"/cdn/(?P<oid>\w+)/(?P<path>.+)", Handler.cdn
    for prefix, kind in PREFIXES.items():
        api = f"/api/{kind}s/{name}"
        rows = [
            (("GET",), api, Handler.info),
            (("GET",), f"{api}/revision/{rev}", Handler.info),
            (("GET",), f"{api}/refs", Handler.refs),
            (("GET",), rf"{api}/tree/{rev}(/(?P<path>.+))?", Handler.tree),
            (("POST",), f"{api}/tag/{rev}", Handler.tag),
            (("POST",), f"{api}/paths-info/{rev}", Handler.paths_info),
            (("POST",), f"{api}/preupload/{rev}", Handler.preupload),
            (("POST",), f"{api}/commit/{rev}", Handler.commit),
            (("POST",), rf"/{prefix}{name}\.git/info/lfs/objects/batch", Handler.batch),
            (("GET", "HEAD"), rf"/{prefix}{name}/resolve/{rev}/(?P<path>.+)", Handler.resolve),
        ]
        for methods, pattern, action in rows:
            yield methods, pattern, _of_kind(action, kind)


def _of_kind(action, kind):
    def answer(handler, **groups):
        return action(handler, kind, **{key: value for key, value in groups.items() if value is not None})

    return answer


ROUTES = list(routes())
