"""Wrong versions of a program, which good tests must distinguish from the correct one.

Stand-ins keep the imports, constants and names of the program, but replace its function bodies: all return the same
value, or their first argument. Mutants change one thing at one position: an operator, comparison, constant or
condition."""

import ast
import copy
from collections.abc import Callable, Iterator

CONSTANTS = ("None", "True", "False", "0", "1", "-1", "''", "[]", "()", "{}")

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitOr,
    ast.LShift: ast.RShift, ast.RShift: ast.LShift,
}  # fmt: skip
_Function = ast.FunctionDef | ast.AsyncFunctionDef


def stand_ins(program: str) -> Iterator[tuple[str, str]]:
    """Yield (what the functions do, source) for each program that computes nothing."""
    for value in CONSTANTS:
        yield f"returns {value}", _with_bodies(program, lambda function, value=value: value)  # type: ignore[misc]
    yield "returns its first argument", _with_bodies(program, _first_argument)


def _with_bodies(program: str, result: Callable[[_Function], str]) -> str:
    tree = ast.parse(program)
    for node in ast.walk(tree):
        if isinstance(node, _Function) and node.name != "__init__":
            node.body = [ast.Return(ast.parse(result(node), mode="eval").body)]
    return ast.unparse(ast.fix_missing_locations(tree))


def _first_argument(function: _Function) -> str:
    names = [argument.arg for argument in [*function.args.posonlyargs, *function.args.args]]
    names = [name for name in names if name not in ("self", "cls")]
    return names[0] if names else "None"


def mutants(program: str, limit: int) -> list[tuple[str, str]]:
    """(position and change, source) of programs with one change each, at most `limit`, spread over the program."""
    tree = ast.parse(program)
    changes = [
        (i, k) for i, node in enumerate(ast.walk(tree)) for k, _ in enumerate(_changes(node)) if _inside(tree, node)
    ]
    step = max(1.0, len(changes) / limit)
    chosen = [changes[int(n * step)] for n in range(min(limit, len(changes)))]
    result = []
    for i, k in chosen:
        changed = copy.deepcopy(tree)
        node = next(node for n, node in enumerate(ast.walk(changed)) if n == i)
        name, change = list(_changes(node))[k]
        change()
        source = ast.unparse(ast.fix_missing_locations(changed))
        result.append((f"line {getattr(node, 'lineno', '?')}: {name}", source))
    return result


def _inside(tree: ast.Module, node: ast.AST) -> bool:
    """Whether the node is in a function body (not in a default, an annotation or a docstring)."""
    return any(
        node is part
        for function in ast.walk(tree)
        if isinstance(function, _Function)
        for k, statement in enumerate(function.body)
        if not (k == 0 and isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))
        for part in ast.walk(statement)
    )


def _changes(node: ast.AST) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield (description, function that makes the change in place) for each possible change at a node."""
    match node:
        case ast.Compare(ops=[operator]) if type(operator) in _COMPARISONS:
            new = _COMPARISONS[type(operator)]
            yield f"{type(operator).__name__} becomes {new.__name__}", lambda: setattr(node, "ops", [new()])
        case ast.BinOp(op=operator) | ast.AugAssign(op=operator) if type(operator) in _OPERATORS:
            arithmetic = _OPERATORS[type(operator)]
            yield f"{type(operator).__name__} becomes {arithmetic.__name__}", lambda: setattr(node, "op", arithmetic())
        case ast.BoolOp(op=operator):
            other = ast.Or if isinstance(operator, ast.And) else ast.And
            yield f"becomes {other.__name__}", lambda: setattr(node, "op", other())
        case ast.UnaryOp(op=ast.Not()):
            yield "not is dropped", lambda: _drop_not(node)
        case ast.Constant(value=bool(value)):
            yield f"{value} becomes {not value}", lambda: setattr(node, "value", not value)
        case ast.Constant(value=int(literal) | float(literal)):
            yield f"{literal} becomes {literal + 1}", lambda: setattr(node, "value", literal + 1)
        case ast.If(test=test) | ast.While(test=test) if not isinstance(test, ast.Constant):
            yield "the condition never holds", lambda: setattr(node, "test", ast.Constant(False))
            if isinstance(node, ast.If):
                yield "the condition always holds", lambda: setattr(node, "test", ast.Constant(True))


def _drop_not(node: ast.UnaryOp) -> None:
    """Change `not x` to `bool(x)`, written as a double negation."""
    node.op, node.operand = ast.Not(), ast.UnaryOp(ast.Not(), node.operand)
