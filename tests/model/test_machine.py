import json

import torch

from reprise.model.machine import describe_machine


def test_it_is_json_and_names_the_versions_in_use() -> None:
    machine = describe_machine()
    assert json.loads(json.dumps(machine)) == machine
    assert (
        machine["versions"]["torch"] == torch.__version__.split("+")[0]
        or machine["versions"]["torch"] == torch.__version__
    )
    assert machine["cores"] >= 1
    assert machine["memory_gib"] > 0
    assert len(machine["accelerators"]) == torch.cuda.device_count()
