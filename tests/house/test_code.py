"""What may stand where: SQL, states, printing, broad excepts, late imports, the HTTP client."""

import ast
import re
from collections.abc import Iterator

from tests.house.sources import find_modules, find_strings, name_of, our_modules, parse

_SQL = re.compile(r"\b(SELECT|INSERT INTO|UPDATE|DELETE FROM)\b")
_ASSIGNS_STATE = re.compile(
    r"\bUPDATE\s+(?:OR\s+\w+\s+)?(?:recipients|messages)\b(?:\s+AS\s+\w+)?\s+"
    r"SET\b(?P<assigned>(?:(?!\b(?:WHERE|FROM|RETURNING)\b).)*)",
    re.DOTALL,
)

# Where anything may be caught, since what is caught belongs to somebody else: the loops that
# must go on, and the thread whose waiters each get their own error.
MAY_CATCH_ALL = {
    "emailerctl/store/sqlite.py",
    "daemons/consumer/",
    "daemons/api/handlers/base.py",
    "daemons/run.py",
    "daemons/watch.py",
    "emailerctl/cli/reports.py",  # a mail server returns what is not taken with 75
}
PRINTING = {"print", "pprint", "echo", "secho", "Console"}


def found(lines: Iterator[str]) -> str:
    return "\n".join(lines)


def test_sql_is_spoken_in_the_store_alone() -> None:
    wrong = (
        f"{name_of(path)}:{string.lineno}: {string.value.strip()[:60]!r}"
        for path in our_modules()
        if not name_of(path).startswith("emailerctl/store/")
        for string in find_strings(parse(path))
        if _SQL.search(str(string.value))
    )

    assert found(wrong) == ""


def test_two_statements_assign_a_state() -> None:
    """TRANSITION for recipients, SUMMARISE for messages: the life cycle has no back door."""
    assigning = [
        (name_of(path), target.id)
        for path in our_modules()
        for statement in parse(path).body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name) and _assigns_state(statement)
    ]
    everywhere = sum(
        _assigns_state(string) for path in our_modules() for string in find_strings(parse(path))
    )

    assert sorted(assigning) == [
        ("emailerctl/store/statements.py", "SUMMARISE"),
        ("emailerctl/store/statements.py", "TRANSITION"),
    ]
    assert everywhere == 2


def _assigns_state(node: ast.AST) -> bool:
    text = " ".join(str(string.value) for string in find_strings(node))
    return any(
        re.search(r"\bstate\s*=", match["assigned"]) for match in _ASSIGNS_STATE.finditer(text)
    )


def test_one_file_prints() -> None:
    wrong = (
        f"{name_of(path)}:{node.lineno}: {ast.unparse(node.func)}"
        for path in our_modules()
        if name_of(path) != "emailerctl/cli/output.py"
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Call) and _is_printing(node.func)
    )

    assert found(wrong) == ""


def _is_printing(function: ast.expr) -> bool:
    if ast.unparse(function) in {"sys.stdout.write", "sys.stderr.write"}:
        return True
    name = function.attr if isinstance(function, ast.Attribute) else ast.unparse(function)
    return name in PRINTING


def test_nobody_catches_everything_but_the_loops() -> None:
    """Catching it all to clean up and raise it again is fine anywhere."""
    wrong = (
        f"{name_of(path)}:{node.lineno}"
        for path in our_modules()
        if not name_of(path).startswith(tuple(MAY_CATCH_ALL))
        for node in ast.walk(parse(path))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or {"Exception", "BaseException"} & _names(node.type))
        and not _raises_it_again(node)
    )

    assert found(wrong) == ""


def _names(node: ast.expr) -> set[str]:
    return {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}


def _raises_it_again(handler: ast.ExceptHandler) -> bool:
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


def test_imports_stand_on_top_but_for_commands() -> None:
    wrong = (
        f"{name_of(path)}:{inner.lineno}: {ast.unparse(inner)}"
        for path in our_modules()
        if not name_of(path).startswith("emailerctl/cli/")
        for node in ast.walk(parse(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(node)
        if isinstance(inner, ast.Import | ast.ImportFrom)
    )

    assert found(wrong) == ""


def test_the_core_knows_the_shapes_of_backends_alone() -> None:
    shapes = {f"emailerctl.{floor}.base" for floor in ("store", "queues", "providers")}
    floors = tuple(f"emailerctl.{floor}" for floor in ("store", "queues", "providers"))
    wrong = (
        f"{name_of(path)}:{node.lineno}: {ast.unparse(node)}"
        for path in find_modules("emailerctl/core", "emailerctl/models")
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else _imported(node))
        if name and name.startswith(floors) and name not in shapes
    )

    assert found(wrong) == ""


def _imported(node: ast.Import) -> list[str]:
    return [alias.name for alias in node.names]


def test_few_modules_know_the_http_client() -> None:
    """A fork of it can then be taken by changing a line in each."""
    importing = {
        name_of(path)
        for path in our_modules()
        for node in ast.walk(parse(path))
        if (isinstance(node, ast.Import) and any(a.name == "httpx" for a in node.names))
        or (isinstance(node, ast.ImportFrom) and node.module == "httpx")
    }

    # ForestMQ is plain HTTP to a neighbour, and the publisher runs in other people's services.
    assert importing == {
        "emailerctl/cli/remote_log.py",
        "emailerctl/providers/http_client.py",
        "emailerctl/client.py",
        "emailerctl/publish.py",
        "emailerctl/queues/forestmq_client.py",
    }


def test_no_statement_takes_the_name_of_another() -> None:
    """The later one would be run for both."""
    (path,) = (p for p in our_modules() if name_of(p) == "emailerctl/store/statements.py")
    names = [
        target.id
        for node in parse(path).body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    ]

    assert sorted(names) == sorted(set(names))


def test_every_moment_knows_its_zone() -> None:
    wrong = (
        f"{name_of(path)}:{node.lineno}: {ast.unparse(node)}"
        for path in our_modules()
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Call) and _is_naive(node)
    )

    assert found(wrong) == ""


def _is_naive(call: ast.Call) -> bool:
    if not isinstance(call.func, ast.Attribute):
        return False
    of = ast.unparse(call.func.value)
    has_zone = any(keyword.arg in {"tz", "tzinfo"} for keyword in call.keywords)
    match call.func.attr:
        case "utcnow" | "utcfromtimestamp":
            return True
        case "now" if of in {"datetime", "datetime.datetime"}:
            return not (call.args or has_zone)
        case "fromtimestamp":
            return not (len(call.args) > 1 or has_zone)
        case "today":
            return of in {"datetime", "date", "datetime.datetime", "datetime.date"}
    return False


def test_files_are_named_after_their_subject() -> None:
    wrong = {"utils", "helpers", "common", "manager", "service", "types", "misc"}

    assert [name_of(path) for path in our_modules() if path.stem in wrong] == []


def test_the_rules_see_what_they_forbid() -> None:
    """The rules above find nothing; that they would find something is shown here."""
    tree = ast.parse(
        'X = """UPDATE recipients\\n SET changed_at = 1, state = :s WHERE n = 1"""\n'
        'Y = "UPDATE recipients SET n = 1 WHERE state = 2"\n'
        'def f():\n    """SELECT in a docstring"""\n    return f"SELECT {f}"\n'
        "try:\n    pass\nexcept Exception:\n    pass\n"
        "datetime.now()\ndatetime.now(UTC)\nconsole = rich.Console()\n"
    )
    nodes = list(ast.walk(tree))

    assert [_assigns_state(statement) for statement in tree.body[:2]] == [True, False]
    assert sum(bool(_SQL.search(str(string.value))) for string in find_strings(tree)) == 3
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    assert [ast.unparse(call) for call in calls if _is_naive(call)] == ["datetime.now()"]
    assert [ast.unparse(c.func) for c in calls if _is_printing(c.func)] == ["rich.Console"]
    (handler,) = (node for node in nodes if isinstance(node, ast.ExceptHandler))
    assert not _raises_it_again(handler)
