"""A server that speaks as much S3 as listing and reading take; prints its port.

It has a process of its own: Daft reads inside of workers without letting other threads of theirs run.
"""

import gzip
import json
import re
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LINES = [json.dumps({"text": f"Document number {number}.", "id": f"d{number}"}) + "\n" for number in range(9)]
OBJECTS = {
    "corpus/zh/a.jsonl": "".join(LINES[:5]).encode(),
    "corpus/zh/b.jsonl.gz": gzip.compress("".join([*LINES[5:], "broken\n"]).encode()),
    "corpus/readme.pdf": b"x",
}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        _, bucket, *key = urllib.parse.unquote(url.path).split("/", 2)
        if bucket != "bucket":
            return self.reply(404, b"<Error><Code>NoSuchBucket</Code></Error>")
        if "list-type" in query:
            return self.reply(200, list_objects(query.get("prefix", ""), query.get("delimiter")))
        data = OBJECTS.get(key[0] if key else "")
        if data is None:
            return self.reply(404, b"<Error><Code>NoSuchKey</Code></Error>")
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
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *arguments):
        pass


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
