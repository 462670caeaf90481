"""Judge generated programs by their tests, in the sandbox of the synthesis stage."""

from typing import Any


def humaneval_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Score HumanEval: run the prompt with its completion, then the official check of the entry point."""
    return {"acc": _passes(doc["prompt"] + results[0], f"{doc['test']}\ncheck({doc['entry_point']})")}


def mbpp_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Score MBPP: run the program, then the setup of its tests, then their assert statements."""
    return {"acc": _passes(results[0], "\n".join([doc.get("test_setup_code") or "", *doc["test_list"]]))}


def _passes(program: str, tests: str) -> float:
    from reprise.sandbox.run import run_program

    return float(run_program(program, tests).passed)
