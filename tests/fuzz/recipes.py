"""Recipes with one mistake each, made from a recipe that is right."""

import copy
import json
import random
import string

import yaml

from reprise.recipe.loading import _fields_at, check
from reprise.recipe.recipe import Recipe

WORDS = ("banana", "Größe", "学习", "max", "tokens_", "learning-rate", " ", "null ", "0x", "~")


def wrong_recipe(data, rng):
    """Settings that are right -> (what was done, bytes of a recipe that is wrong)."""
    kind = rng.choice(_KINDS)
    return kind(copy.deepcopy(data), rng)


def _written(what, data):
    return what, yaml.safe_dump(data, allow_unicode=True, sort_keys=False).encode()


def whole(data):
    """The recipe with every default written out."""
    return json.loads(json.dumps(check(Recipe, data, "recipe").model_dump(mode="json")))


def nodes(value, loc=()):
    """(location, value) of everything in a recipe."""
    yield loc, value
    if isinstance(value, dict):
        for key, child in value.items():
            yield from nodes(child, (*loc, key))
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from nodes(child, (*loc, index))


def at(data, loc):
    for part in loc:
        data = data[part]
    return data


def _sections(data):
    """Locations of mappings whose keys are settings and no names of the user's."""
    return [loc for loc, value in nodes(data) if isinstance(value, dict) and _fields_at(Recipe, loc)]


def _misspelt(data, rng):
    while True:
        section = at(data, loc := rng.choice(_sections(data)))
        key = rng.choice(list(section)) if section else "name"
        spelt = list(key)
        place = rng.randrange(len(spelt))
        change = rng.choice(("drop", "double", "other", "swap", "upper"))
        if change == "drop":
            spelt.pop(place)
        elif change == "double":
            spelt.insert(place, spelt[place])
        elif change == "other":
            spelt[place] = rng.choice(string.ascii_lowercase)
        elif change == "swap" and place:
            spelt[place - 1 : place + 1] = reversed(spelt[place - 1 : place + 1])
        else:
            spelt[place] = spelt[place].upper()
        new = "".join(spelt)
        if section and new not in _fields_at(Recipe, loc):
            section[new] = section.pop(key)
            return _written(f"{'.'.join(map(str, loc))}: {key} -> {new}", data)


def _unknown(data, rng):
    loc = rng.choice(_sections(data))
    word = rng.choice(WORDS)
    at(data, loc)[word] = rng.choice((1, "x", None, [], {}))
    return _written(f"{'.'.join(map(str, loc))}: also {word!r}", data)


def _wrong_type(data, rng):
    data = whole(data)
    leaves = [(loc, value) for loc, value in nodes(data) if loc and not isinstance(value, dict | None.__class__)]
    loc, value = rng.choice(leaves)
    wrong = {
        bool: ("perhaps", 3, [], {"a": 1}, "1.5"),
        int: ("banana", [1], {"a": 1}, float("nan"), float("inf"), -7, 2.5, "12 monkeys"),
        float: ("banana", [1], {"a": 1}, float("nan"), float("inf"), -7.5),
        str: ([1, 2], {"a": 1}, [], {}),
        list: (7, {"zzz": 1}, 0.5, True),
    }[type(value)]
    new = rng.choice(wrong)
    at(data, loc[:-1])[loc[-1]] = new
    return _written(f"{'.'.join(map(str, loc))}: {value!r} -> {new!r}", data)


def _missing(data, rng):
    loc = rng.choice(
        [("name",), ("workspace",), ("model",), ("documents",), ("stages",), ("model", "path"), ("documents", "inputs"),
         ("stages", 0, "mixture"), ("stages", 0, "tokens"), ("stages", 1, "name"), ("documents", "inputs", 0, "path")]
    )  # fmt: skip
    del at(data, loc[:-1])[loc[-1]]
    return _written(f"without {'.'.join(map(str, loc))}", data)


def _name(data, rng):
    """A language, source, topic or benchmark that is in no text or list."""
    wrong = rng.choice(("wbe", "trk", "Lwa", "english!", "mmlu9", "学"))
    stage = data["stages"][rng.randrange(2)]
    choice = rng.randrange(8)
    if choice == 0:
        stage["curriculum"] = {wrong: {"order": "ascending"}}
    elif choice == 1:
        stage["curriculum"] = {f"zh/{wrong}": {"order": "ascending"}}
    elif choice == 2:
        stage["topics"] = {"sources": [wrong]}
    elif choice == 3:
        data["evaluation"]["tolerance"] = {wrong: 0.01}
    elif choice == 4:
        data["evaluation"]["benchmarks"] = [wrong]
    elif choice == 5:
        data["documents"]["clean"] = {"heuristics": {wrong: {}}}
    elif choice == 6:
        data["documents"]["clean"] = {"heuristics_sources": [wrong]}
    else:
        entry = stage["mixture"]["zh"]
        entry["sources"] = {wrong: 1.0}
    return _written(f"the name {wrong} ({choice})", data)


def _shares(data, rng):
    mixture = data["stages"][rng.randrange(2)]["mixture"]
    entry = mixture[rng.choice(list(mixture))]
    value = rng.choice((0.9, 1.1, 2, -0.2, 1e9, 0.3333))
    if rng.random() < 0.5:
        entry["share"] = value
    else:
        entry["sources"][rng.choice(list(entry["sources"]))] = value
    return _written(f"a share {value}", data)


def _path(data, rng):
    path = rng.choice(("/none/x.jsonl", "none", "", "package:none/x.jsonl", "\u0000", "a" * 300, "/dev/null", "/proc"))
    if rng.random() < 0.5:
        data["model"]["path"] = path
    else:
        data["documents"]["inputs"][0]["path"] = path
    return _written(f"a path {path!r}", data)


def _text(data, rng):
    text = yaml.safe_dump(data, sort_keys=False).encode()
    lines = text.split(b"\n")
    changes = {
        "cut": text[: rng.randrange(len(text) // 2)],
        "tabs": text.replace(b"\n  ", b"\n\t", 1 + rng.randrange(3)),
        "key twice": b"\n".join([*lines, b"seed: 1", b"seed: 2"]),
        "no bracket": text + b"seed: [1\n",
        "no quote": text + b'seed: "1\n',
        "not UTF-8": text + b"# \xff\xfe\xe9\nseed: \xff\n",
        "UTF-16": text.decode().encode("utf-16"),
        "NUL": text.replace(b"name", b"na\x00me", 1),
        "deep": b"name: " + b"[" * 5000,
        "deep mapping": b"".join(b" " * depth + b"a:\n" for depth in range(2000)),
        "aliases": b"a: &a [x,x,x,x,x,x,x,x,x]\n"
        + b"".join(b"%c: &%c [%s]\n" % (98 + n, 98 + n, b",".join([b"*%c" % (97 + n)] * 9)) for n in range(9)),
        "unknown alias": text + b"seed: *nothing\n",
        "loop": text + b"seed: &x [*x]\n",
        "tag": text + b"seed: !!python/object/apply:os.system ['true']\n",
        "two documents": text + b"---\nname: other\n",
        "list": b"- name: x\n- seed: 1\n",
        "word": b"banana",
        "number": b"7",
        "empty": b"",
        "blank": b"\n \n# nothing\n",
        "JSON cut": json.dumps(data).encode()[:-5],
        "random bytes": rng.randbytes(200),
        "a long number": text + b"seed: " + b"9" * 5000 + b"\n",
        "a date": text + b"seed: 2026-02-31\n",
        "a binary value": text + b"seed: !!binary '%%%'\n",
        "complex key": text + b"? [a, b]\n: 1\n",
        "indented": b"\n".join((b" " * rng.randrange(3)) + line for line in lines),
    }
    what = rng.choice(list(changes))
    return f"text: {what}", changes[what]


_KINDS = (_misspelt, _misspelt, _unknown, _wrong_type, _wrong_type, _wrong_type, _missing, _name, _shares, _path, _text)


def try_recipe(data, folder, rng):
    """(what was done, outcome of `reprise plan`); the fault `silent` where nothing was said."""
    from tests.fuzz.calling import call

    what, content = wrong_recipe(data, rng)
    path = folder / "recipe.yaml"
    path.write_bytes(content)
    outcome = call("plan", str(path), "--json")
    if not outcome.fault and outcome.code == 0:
        outcome.fault = "" if json.loads(outcome.out)["findings"] else "silent"
    return what, outcome


def rng_of(number):
    return random.Random(f"recipe {number}")
