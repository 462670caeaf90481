"""A server that speaks as much S3, Google Cloud Storage and Hub as listing and reading take; prints its port.

It has a process of its own: Daft reads inside of workers without letting other threads of theirs run. It also speaks as
much S3 as writing and deleting take, and fails, hangs or kills its client as `PUT /_faults` asks it to:

    {"kill": PID, "at": N, "late": BOOL}   SIGKILL to the client at its Nth change from now, done before (late) or not
    {"status": 500, "count": N}            the next N changes fail
    {"hang_s": S, "count": N}              the next N changes are answered so much later
"""

import gzip
import io
import json
import os
import re
import signal
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyarrow as pa
import pyarrow.parquet as pq

TABLE = io.BytesIO()
pq.write_table(pa.table({"text": [f"Row number {number}." for number in range(3)]}), TABLE)
LINES = [json.dumps({"text": f"Document number {number}.", "id": f"d{number}"}) + "\n" for number in range(9)]
OBJECTS = {
    "corpus/zh/a.jsonl": "".join(LINES[:5]).encode(),
    "corpus/zh/b.jsonl.gz": gzip.compress("".join([*LINES[5:], "broken\n"]).encode()),
    "corpus/readme.png": b"x",
    "tables/a.parquet": TABLE.getvalue(),
    "secret/a.jsonl": b"x",
    "secret/a.parquet": b"x",
}


UPLOADS = {}
FAULTS = {}
LOCK = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_PUT(self):
        data = self.body()
        if self.path == "/_faults":
            FAULTS.clear()
            FAULTS.update(json.loads(data))
            return self.reply(200, b"")
        return self.change(data)

    def do_POST(self):
        self.change(self.body())

    def do_DELETE(self):
        self.change(b"")

    def body(self):
        """The body, without the frames of `aws-chunked`."""
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            data = b""
            while size := int(self.rfile.readline().strip() or b"0", 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        if "aws-chunked" not in self.headers.get("Content-Encoding", ""):
            return data
        whole, rest = b"", data
        while True:
            head, _, rest = rest.partition(b"\r\n")
            size = int(head.partition(b";")[0], 16)
            if not size:
                return whole
            whole, rest = whole + rest[:size], rest[size + 2 :]

    def change(self, data):
        """Write or delete objects, unless a fault is due."""
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        _, bucket, *key = urllib.parse.unquote(url.path).split("/", 2)
        if bucket != "bucket":
            code = "AccessDenied" if bucket == "closed" else "NoSuchBucket"
            return self.reply(403 if bucket == "closed" else 404, f"<Error><Code>{code}</Code></Error>".encode())
        with LOCK:
            FAULTS["at"] = FAULTS.get("at", 0) - 1
            killed = "kill" in FAULTS and FAULTS["at"] == 0
            count = FAULTS.get("count", 0)
            FAULTS["count"] = count - 1
        if killed and not FAULTS["late"]:
            return self.kill()
        if count > 0:
            time.sleep(FAULTS.get("hang_s", 0))
            if "status" in FAULTS:
                return self.reply(
                    FAULTS["status"], b"<Error><Code>InternalError</Code><Message>injected</Message></Error>"
                )
        with LOCK:
            answer = self.apply(key[0] if key else "", query, data)
        return self.kill() if killed else self.reply(*answer)

    def kill(self):
        os.kill(FAULTS["kill"], signal.SIGKILL)
        self.close_connection = True

    def apply(self, key, query, data):
        """Status, body and headers of the answer to a change."""
        tag = {"ETag": '"0"'}
        if self.command == "DELETE":
            if "uploadId" not in query:
                OBJECTS.pop(key, None)
            return 204, b""
        if self.command == "PUT":
            if "uploadId" in query:
                UPLOADS[query["uploadId"]][int(query["partNumber"])] = data
            else:
                OBJECTS[key] = data
            return 200, b"", tag
        if "delete" in query:
            for name in re.findall(r"<Key>([^<]*)</Key>", data.decode()):
                OBJECTS.pop(name, None)
            return 200, b"<DeleteResult></DeleteResult>"
        if "uploads" in query:
            upload = str(len(UPLOADS) + 1)
            UPLOADS[upload] = {}
            body = f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
            return 200, body.encode()
        parts = UPLOADS.pop(query["uploadId"])
        OBJECTS[key] = b"".join(parts[number] for number in sorted(parts))
        body = "<CompleteMultipartUploadResult><ETag>0</ETag></CompleteMultipartUploadResult>"
        return 200, body.encode()

    def do_GET(self):
        if self.path == "/_objects":
            return self.reply_json(200, {name: len(data) for name, data in OBJECTS.items()})
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        if url.path.startswith("/storage/v1/b/") or url.path.startswith("/download/storage/v1/b/"):
            return self.google(url.path.split("/b/")[1], query)
        if url.path.startswith(("/api/datasets/", "/datasets/")):
            return self.hub(urllib.parse.unquote(url.path))
        _, bucket, *key = urllib.parse.unquote(url.path).split("/", 2)
        if bucket != "bucket":
            return self.reply(404, b"<Error><Code>NoSuchBucket</Code></Error>")
        if "list-type" in query:
            return self.reply(200, list_objects(query.get("prefix", ""), query.get("delimiter")))
        return self.send(OBJECTS.get(key[0] if key else ""), b"<Error><Code>NoSuchKey</Code></Error>")

    def google(self, path, query):
        bucket, _, name = path.partition("/o")
        name = urllib.parse.unquote(name.removeprefix("/"))
        if bucket != "bucket":
            return self.reply_json(404, {"error": {"code": 404, "message": "The bucket does not exist."}})
        if query.get("alt") == "media":
            return self.send(OBJECTS.get(name))
        if name:
            found = {"kind": "storage#object", "bucket": bucket, "name": name, "size": str(len(OBJECTS.get(name, b"")))}
            return self.reply_json(200, found) if name in OBJECTS else self.reply_json(404, {"error": {"code": 404}})
        if path.endswith("/o"):
            keys = [key for key in OBJECTS if key.startswith(query.get("prefix", ""))]
            items = [
                {"kind": "storage#object", "bucket": bucket, "name": key, "size": str(len(OBJECTS[key]))}
                for key in keys
            ]
            return self.reply_json(200, {"kind": "storage#objects", "items": items})
        return self.reply_json(200, {"kind": "storage#bucket", "name": bucket})

    def hub(self, path):
        """The repository user/data, whose files are those of the bucket."""
        if "/user/data" not in path:
            headers = {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository Not Found"}
            return self.reply(404, b"{}", headers)
        if "/resolve/main/" in path:
            return self.send(OBJECTS.get(path.split("/resolve/main/")[1]))
        if "/tree/" in path:
            inside = path.split("/tree/main", 1)[1].strip("/")
            entries = tree(inside, recursive="recursive=true" in self.path.lower())
            if entries or not inside:
                return self.reply_json(200, entries)
            return self.reply(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        return self.reply_json(200, {"id": "user/data", "sha": "0" * 40})

    def reply_json(self, status, value):
        self.reply(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def send(self, data, missing=b"{}"):
        """All of the data, or the range that was asked for."""
        if data == b"x":  # listed, but not for reading
            return self.reply(403, b"{}")
        if data is None:
            return self.reply(404, missing, {"X-Error-Code": "EntryNotFound"})
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            return self.reply(200, data)
        first, last = int(wanted[1]), min(int(wanted[2] or len(data)), len(data) - 1)
        return self.reply(206, data[first : last + 1], {"Content-Range": f"bytes {first}-{last}/{len(data)}"})

    do_HEAD = do_GET  # noqa: N815

    def reply(self, status, data, headers=()):
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *arguments):
        pass


def tree(folder, recursive):
    """Files and folders below a folder, as the Hub lists them."""
    prefix = f"{folder}/" if folder else ""
    files = [key for key in OBJECTS if key.startswith(prefix)]
    folders = sorted(
        {key[:place] for key in files for place, char in enumerate(key) if char == "/" and place > len(prefix)}
    )
    if not recursive:
        files = [key for key in files if "/" not in key[len(prefix) :]]
        folders = [name for name in folders if "/" not in name[len(prefix) :]]
    return [{"type": "directory", "path": name, "oid": "0" * 40, "size": 0} for name in folders] + [
        {"type": "file", "path": key, "oid": "0" * 40, "size": len(OBJECTS[key])} for key in files
    ]


def list_objects(prefix, delimiter):
    inside = [key for key in OBJECTS if key.startswith(prefix)]
    folders = {prefix + key[len(prefix) :].split("/")[0] + "/" for key in inside if "/" in key[len(prefix) :]}
    files = [key for key in inside if not delimiter or "/" not in key[len(prefix) :]]
    contents = "".join(f"<Contents><Key>{key}</Key><Size>{len(OBJECTS[key])}</Size></Contents>" for key in files)
    common = "".join(f"<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>" for folder in folders)
    text = (
        f"<ListBucketResult><IsTruncated>false</IsTruncated>{contents}{common if delimiter else ''}</ListBucketResult>"
    )
    return text.encode()


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()
