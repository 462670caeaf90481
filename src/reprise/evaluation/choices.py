"""Checks that the choices of a question can be scored."""

from collections.abc import Sequence

from reprise.errors import UserError


def check_requests(requests: Sequence[tuple[Sequence[int], Sequence[int]]], max_length: int) -> None:
    """Raise for the requests that lm-evaluation-harness rejects.

    A continuation without a token of its own would have the log-likelihood 0 and win against every other.

    Raises:
        UserError: a context or a continuation has no token, or a continuation is longer than the model's context.
    """
    for index, (context, continuation) in enumerate(requests):
        problem = None
        if not continuation:
            problem = "has no token of its own"
        elif not context:
            problem = "has no context to be scored after"
        elif len(continuation) > max_length:
            problem = f"has {len(continuation)} tokens, more than the {max_length} that the model sees"
        if problem:
            raise UserError(
                f"choice {index} of the {len(requests)} that are scored {problem}",
                where="evaluation.benchmarks",
                remedy="correct the question in the benchmark's files, or leave the benchmark out",
            )
