"""What a Jinja source uses: variables, other files, and what a template may not contain."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from jinja2 import TemplateSyntaxError, nodes
from jinja2.meta import find_undeclared_variables

from emailerctl.templates.sandbox import Sandbox

_LOOP_METHODS = frozenset({"cycle", "changed"})
_CALLABLE = frozenset({"caller", "super", "loop"})


@dataclass(slots=True)
class Source:
    """What was found out about one source.

    Attributes:
        variables: that it expects, with the line of the first use.
        assigned: that it sets itself, also for the files that it includes.
        files: that it includes, extends or imports, with the line.
        faults: (line, code, sentence) each.
    """

    variables: dict[str, int] = field(default_factory=dict)
    assigned: set[str] = field(default_factory=set)
    files: dict[str, int] = field(default_factory=dict)
    faults: list[tuple[int, str, str]] = field(default_factory=list)


def inspect_source(environment: Sandbox, name: str, text: str) -> Source:
    """Parse *text* and look at all of it; nothing runs."""
    source = Source()
    try:
        tree = environment.parse(text, name)
        # Compiling finds what parsing does not: doubled blocks, a second extends.
        environment.compile(text, name, name)
        undeclared = find_undeclared_variables(tree)
    except TemplateSyntaxError as error:
        source.faults.append((error.lineno, "syntax", error.message or "bad syntax"))
        return source
    except RecursionError:
        source.faults.append((0, "depth", "is nested too deep"))
        return source
    lines: dict[str, int] = {}
    for node in tree.find_all(nodes.Name):
        if node.ctx == "load":
            lines.setdefault(node.name, node.lineno)
        else:
            source.assigned.add(node.name)
    source.variables = {variable: lines.get(variable, 0) for variable in undeclared}
    source.faults += [*_find_unknown(tree, environment), *_find_forbidden(tree)]
    kinds = (nodes.Extends, nodes.Include, nodes.Import, nodes.FromImport)
    for link in tree.find_all(kinds):
        wanted = getattr(link, "template")  # noqa: B009  (of each of the four)
        if isinstance(wanted, nodes.Const) and isinstance(wanted.value, str):
            source.files.setdefault(wanted.value, link.lineno)
        else:
            sentence = "names the other file by an expression; write its name in quotes"
            source.faults.append((link.lineno, "include", sentence))
    return source


def _find_forbidden(tree: nodes.Template) -> Iterator[tuple[int, str, str]]:
    """Yield what would be refused while rendering anyway, and what turns escaping off."""
    for node in tree.find_all((nodes.ScopedEvalContextModifier, nodes.EvalContextModifier)):
        yield node.lineno, "forbidden", "autoescape can't be switched"
    imported = set(_find_imported(tree))
    for call in tree.find_all(nodes.Call):
        target = call.node
        if isinstance(target, nodes.Name) and target.name in imported | _CALLABLE:
            continue
        if isinstance(target, nodes.Getattr) and isinstance(target.node, nodes.Name):
            of = target.node.name
            if (of == "loop" and target.attr in _LOOP_METHODS) or of in imported:
                continue
        yield call.lineno, "forbidden", "only macros can be called; data has no methods"
    for power in tree.find_all(nodes.Pow):
        yield power.lineno, "forbidden", "** is not possible"


def _find_unknown(tree: nodes.Template, environment: Sandbox) -> Iterator[tuple[int, str, str]]:
    """Yield unknown filters and tests; in a branch Jinja would find out while rendering."""
    for filter_ in tree.find_all(nodes.Filter):
        if filter_.name not in environment.filters:
            yield filter_.lineno, "syntax", f"there is no filter {filter_.name}"
    for test in tree.find_all(nodes.Test):
        if test.name not in environment.tests:
            yield test.lineno, "syntax", f"there is no test {test.name}"


def _find_imported(tree: nodes.Template) -> Iterator[str]:
    for macro in tree.find_all(nodes.Macro):
        yield macro.name
    for link in tree.find_all(nodes.Import):
        yield link.target
    for names in tree.find_all(nodes.FromImport):
        for one in names.names:
            yield one if isinstance(one, str) else one[1]
