"""An object store on this machine, in a process of its own, whose faults and contents a test decides and sees."""

import contextlib
import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import NamedTuple

import pytest

from reprise.mirror import _files_of
from reprise.storage import file_checksum

SCRIPT = Path(__file__).parent / "documents" / "bucket.py"
RECORDS = {"manifest.json": "outputs", "checkpoint.json": "files"}


class Bucket(NamedTuple):
    endpoint: str

    def faults(self, **faults):
        """Replace the faults of the store; see bucket.py."""
        request = urllib.request.Request(f"{self.endpoint}/_faults", json.dumps(faults).encode(), method="PUT")
        urllib.request.urlopen(request).close()

    def names(self, folder=""):
        """Objects below a folder."""
        with urllib.request.urlopen(f"{self.endpoint}/_objects") as answer:
            return sorted(name for name in json.load(answer) if name.startswith(folder) and not name.endswith("/"))

    def content(self, name):
        with urllib.request.urlopen(f"{self.endpoint}/bucket/{name}") as answer:
            return answer.read()

    def put(self, name, data):
        request = urllib.request.Request(f"{self.endpoint}/bucket/{name}", data, method="PUT")
        urllib.request.urlopen(request).close()

    def complete(self, folder, scratch):
        """Folders with a record; asserts that each has every file that it lists, with its checksum."""
        found = []
        for record in self.names(folder):
            parent, _, name = record.rpartition("/")
            if name not in RECORDS:
                continue
            for file, expected in _files_of(self.content(record), RECORDS[name]).items():
                (scratch / "object").write_bytes(self.content(f"{parent}/{file}"))
                assert file_checksum(scratch / "object") == expected, f"{parent}/{file}"
            found.append(parent.removeprefix(f"{folder}/"))
        return found


@contextlib.contextmanager
def open_bucket():
    """Start the store; the environment names it while the block runs."""
    server = subprocess.Popen([sys.executable, str(SCRIPT)], stdout=subprocess.PIPE)
    endpoint = f"http://127.0.0.1:{int(server.stdout.readline())}"
    settings = {"ENDPOINT_URL": endpoint, "ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b", "REGION": "us-east-1"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**settings, "EC2_METADATA_DISABLED": "true"}.items():
            patch.setenv(f"AWS_{name}", value)
        yield Bucket(endpoint)
    server.kill()
    server.wait()


def store_environment():
    """The variables that name the store: processes of the fork server have those of its start."""
    return {name: value for name, value in os.environ.items() if name.startswith("AWS_")}


def in_child(function, *arguments):
    """Run a function in a process that has imported everything; gives its exit code, negative if it was killed."""
    from tests.forked_group import context

    child = context().Process(target=_run, args=(function, arguments, store_environment()))
    child.start()
    child.join(120)
    assert child.exitcode is not None
    return child.exitcode


def _run(function, arguments, environment):
    os.environ.update(environment)
    function(*arguments)
