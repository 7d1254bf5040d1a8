"""A bundle and variables become a subject, HTML and text: what a worker does all day."""

import re
from collections.abc import Mapping
from typing import Any

from css_inline import CSSInliner, InlineError
from jinja2 import DictLoader, TemplateError
from jinja2.exceptions import FilterArgumentError, SecurityError, UndefinedError

from emailerctl.templates.base import Bundle, Rendered, Variant
from emailerctl.templates.declare import find_faults
from emailerctl.templates.plain import to_text
from emailerctl.templates.sandbox import Absent, Sandbox

MOST_OUTPUT = 2**20

_MASK = "•••"
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069 ]+")
_IN_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


class Faulty(Exception):
    """The variables are not what the template needs."""

    def __init__(self, faults: list[tuple[str, str]], file: str = "", line: int = 0) -> None:
        super().__init__("; ".join(detail for _pointer, detail in faults))
        self.faults = faults
        self.file = file
        self.line = line


class TooLarge(Exception):
    """The output exceeds the limit."""


def render(
    bundle: Bundle,
    environment: Sandbox,
    variables: Mapping[str, Any],
    locale: str,
    most_output: int = MOST_OUTPUT,
) -> Rendered:
    """Render *bundle* in the nearest language that it has.

    Raises:
        Faulty: with every fault of the variables, or the first that rendering hit upon.
        TooLarge: more than *most_output* characters.
    """
    faults = list(find_faults(bundle.schema, variables, bundle.sensitive))
    if faults:
        raise Faulty(faults)
    language, variant = choose_variant(bundle, locale)
    environment.formats.speak(language)
    context = _complete(bundle, variables)
    subject = _clean(_run(environment, variant.subject, context, most_output))
    shown = subject
    if bundle.hides_subject:
        shown = _mask_subject(bundle, environment, variant, context, most_output)
    html = text = ""
    if variant.html:
        html = _run(environment, variant.html, context, most_output)
        html = _inline(html, bundle.mjml_css.get(variant.html))
        if len(html) > most_output:
            raise TooLarge(f"the HTML has more than {most_output} characters")
    if variant.text:
        text = _run(environment, variant.text, context, most_output).strip("\n") + "\n"
    else:
        text = to_text(html)
    return Rendered(subject, shown, _IN_TEXT.sub("", html), _IN_TEXT.sub("", text))


def build_environment(bundle: Bundle) -> Sandbox:
    """Return an environment with the sources of *bundle* and nothing else."""
    return Sandbox(DictLoader(bundle.sources))


def choose_variant(bundle: Bundle, locale: str) -> tuple[str, Variant]:
    """Return the language to write dates and numbers in, and the files.

    Somebody who asks for de-AT and gets German reads Austrian dates; somebody who asks for
    French and gets English reads English ones.
    """
    known = {name.lower(): name for name in bundle.variants}
    wanted = locale.lower()
    while wanted and wanted not in known:
        wanted = wanted.rpartition("-")[0]
    name = known.get(wanted, "")
    own = name or bundle.locale
    is_related = locale.lower().split("-")[0] == own.lower().split("-")[0]
    return locale if locale and is_related else own, bundle.variants[name]


def _complete(bundle: Bundle, variables: Mapping[str, Any]) -> dict[str, Any]:
    context = dict(variables)
    for name, schema in bundle.schema.get("properties", {}).items():
        if name not in context:
            context[name] = schema["default"] if "default" in schema else Absent(name=name)
    return context


def _run(environment: Sandbox, file: str, context: Mapping[str, Any], most: int) -> str:
    """Run one source, no further than *most* characters.

    Raises:
        Faulty: names no value, since it could be a secret.
    """
    pieces, length = [], 0
    try:
        for piece in environment.get_template(file).generate(context):
            length += len(piece)
            if length > most:
                raise TooLarge(f"{file} makes more than {most} characters")
            pieces.append(piece)
    except (UndefinedError, SecurityError, FilterArgumentError) as error:
        raise Faulty([("", f"{file}: {error.message}")], file, _find_line(error)) from error
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
        # Python's sentences may quote a value.
        detail = f"{file}: a value does not fit what is done with it ({type(error).__name__})"
        raise Faulty([("", detail)], file, _find_line(error)) from error
    except RecursionError as error:
        raise Faulty(
            [("", f"{file} calls itself without end, or is nested too deep")], file
        ) from error
    except TemplateError as error:
        raise Faulty([("", f"{file}: {error.message or error}")], file) from error
    return "".join(pieces)


def _find_line(error: BaseException) -> int:
    """Return the line of the source: Jinja rewrites the traceback to say it."""
    trace, line = error.__traceback__, 0
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def _clean(subject: str) -> str:
    """Return *subject* as one line: a control character becomes a space (RFC 5322 2.2)."""
    return _CONTROLS.sub(" ", subject).strip()


def _mask_subject(
    bundle: Bundle,
    environment: Sandbox,
    variant: Variant,
    context: Mapping[str, Any],
    most: int,
) -> str:
    """Return the subject for the eyes of operators: dots instead of what is sensitive."""
    masked = {
        name: _mask(value) if name in bundle.sensitive else value
        for name, value in context.items()
    }
    try:
        return _clean(_run(environment, variant.subject, masked, most))
    except (Faulty, TooLarge):
        return _MASK  # dots are no number, date or amount: show nothing of it


def _mask(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _mask(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_mask(one) for one in value]
    return _MASK


def _inline(html: str, css: str | None) -> str:
    """Put styles into the elements, as some mail programs want them; nothing is fetched.

    *css*: of compiled MJML, which has done that for all but `mj-style inline`; None: plain
    HTML, with its own styles.
    """
    if css == "" or (css is None and "<style" not in html.lower()):
        return html
    try:
        return CSSInliner(
            keep_style_tags=True,
            keep_at_rules=True,
            load_remote_stylesheets=False,
            extra_css=css or None,
        ).inline(html)
    except InlineError as error:
        raise Faulty([("", "the styles can't be put into the HTML")]) from error
