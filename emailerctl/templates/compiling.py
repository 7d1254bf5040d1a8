"""Publishing: the files of a template become a bundle, or a list of what is wrong."""

import json
import re
from collections.abc import Mapping
from hashlib import sha256

import msgspec
from jinja2 import DictLoader

from emailerctl.models.text import shorten
from emailerctl.templates import declare
from emailerctl.templates.base import Bundle, Compiled, Finding, Variant
from emailerctl.templates.inspect import Source, inspect_source
from emailerctl.templates.lint import find_html_findings, find_mail_findings
from emailerctl.templates.mjml import compile_mjml
from emailerctl.templates.rendering import Faulty, TooLarge, build_environment, render
from emailerctl.templates.sandbox import Sandbox

MOST_OCTETS = 2 * 2**20
_MOST_FILES = 100
_PART = re.compile(r"(subject|body)(?:\.([A-Za-z0-9-]+))?\.(txt|html|mjml)")
_VERSION_CHARACTERS = 16


def compile_template(
    name: str, files: Mapping[str, str], shared: Mapping[str, str]
) -> Compiled:
    """Compile *files*; *shared* are the layouts and partials that they can use."""
    work = _Compilation(files, shared)
    work.run()
    findings = sorted(set(work.findings), key=lambda one: (one.file, one.line, one.code))
    used = sorted(work.uses)
    said = [name, sorted(files.items()), [(one, shared[one]) for one in used]]
    version = sha256(json.dumps(said).encode()).hexdigest()[:_VERSION_CHARACTERS]
    is_good = all(finding.level != "error" for finding in findings)
    bundle = msgspec.json.encode(work.bundle) if is_good and work.bundle else None
    return Compiled(version, bundle, findings, used)


class _Compilation:
    """One run, and what was found in it."""

    def __init__(self, files: Mapping[str, str], shared: Mapping[str, str]) -> None:
        self.findings: list[Finding] = []
        self.uses: set[str] = set()
        self.bundle: Bundle | None = None
        self._files = files
        self._shared = shared
        self._sources: dict[str, str] = {}
        self._css: dict[str, str] = {}
        self._seen: dict[str, Source] = {}
        self._environment = Sandbox(DictLoader({}))

    def _say(self, level: str, code: str, file: str, line: int, detail: str) -> None:
        self.findings.append(Finding(level, code, file, line, detail))

    @property
    def _is_bad(self) -> bool:
        return any(finding.level == "error" for finding in self.findings)

    def run(self) -> None:
        """Compile, then try it with its examples."""
        octets = sum(len(text.encode()) for text in self._files.values())
        if octets > MOST_OCTETS or len(self._files) > _MOST_FILES:
            detail = f"has {len(self._files)} files of {octets} bytes; that is too much"
            self._say("error", "size", declare.FILE, 0, detail)
            return
        text = self._files.get(declare.FILE, "")
        declaration = declare.parse_declaration(text)
        for line, fault in declaration.faults:
            self._say("error", "declaration", declare.FILE, line, fault)
        variants = self._find_variants()
        for file in sorted({f for v in variants.values() for f in (v.subject, v.html, v.text)}):
            if file:
                self._take(file)
        self._check_variables(declaration, variants)
        if self._is_bad:
            return
        self.bundle = Bundle(
            locale=declaration.locale,
            defaults=declaration.defaults,
            variants=variants,
            schema=declaration.schema,
            sensitive=declaration.sensitive,
            examples=declaration.examples,
            sources=self._sources,
            mjml_css=self._css,
            hides_subject=any(
                self._find_variables(variant.subject).keys() & set(declaration.sensitive)
                for variant in variants.values()
            ),
        )
        self._try_out(self.bundle, declaration)

    def _find_variants(self) -> dict[str, Variant]:
        """Return by language which files make a mail, falling back file by file."""
        parts: dict[tuple[str, str], str] = {}
        for file in sorted(self._files):
            found = _PART.fullmatch(file)
            if file == declare.FILE:
                continue
            if found is None or (found[1] == "subject" and found[3] != "txt"):
                detail = "is no file of a template; known: template.toml, subject.txt, body.*"
                self._say("error", "file", file, 0, detail)
                continue
            language = found[2] or ""
            if language and not declare.LOCALE.fullmatch(language):
                self._say("error", "file", file, 0, f"{shorten(language)} is no language tag")
            kind = (
                "subject" if found[1] == "subject" else "text" if found[3] == "txt" else "html"
            )
            if (language, kind) in parts:
                other = parts[language, kind]
                self._say("error", "file", file, 0, f"is there beside {other}; keep one")
            parts[language, kind] = file
        languages = {language for language, _kind in parts} | {""}
        variants = {}
        for language in sorted(languages):
            chain = find_chain(language)
            subject = next((parts[c, "subject"] for c in chain if (c, "subject") in parts), "")
            # A text of another language than the HTML would be worse than one made from it.
            level = next((c for c in chain if {(c, "html"), (c, "text")} & parts.keys()), "")
            html = parts.get((level, "html"), "")
            text = parts.get((level, "text"), "")
            variants[language] = Variant(subject, html, text)
        if not variants[""].subject:
            self._say("error", "file", "subject.txt", 0, "is missing")
        if not (variants[""].html or variants[""].text):
            self._say("error", "file", "body.html", 0, "is missing; or body.mjml, or body.txt")
        return variants

    def _take(self, file: str) -> None:
        """Compile *file* and whatever it uses, as far as that is good."""
        text = self._files[file]
        if not file.endswith(".mjml"):
            self._follow(file, text, ())
            if file.endswith(".html"):
                for level, code, line, detail in find_html_findings(text):
                    self._say(level, code, file, line, detail)
            return
        own = inspect_source(self._environment, file, text)
        for line, code, detail in own.faults:
            self._say("error", code, file, line, detail)
        if not own.faults:
            self._take_mjml(file, own)

    def _take_mjml(self, file: str, own: Source) -> None:
        text = self._files[file]
        partials = {name: one for name, one in self._shared.items() if name.endswith(".mjml")}
        document = compile_mjml(file, text, partials)
        self.uses |= set(document.uses)
        for where, line, code, detail in document.faults:
            self._say("error", code, where, line, detail)
        for name in {file, *document.uses}:
            for level, code, line, detail in find_html_findings({**partials, file: text}[name]):
                self._say(level, code, name, line, detail)
        if document.faults:
            return
        self._css[file] = document.css
        self._follow(file, document.html, ())
        # Lines of the compiled HTML mean nothing to its author.
        known = dict(own.variables)
        for name in document.uses:
            known |= inspect_source(self._environment, name, partials[name]).variables
        source = self._seen[file]
        source.variables = {name: known.get(name, 0) for name in source.variables}

    def _follow(self, file: str, text: str, path: tuple[str, ...]) -> None:
        """Look at a source and at those that it includes, extends and imports."""
        if file in self._seen:
            return
        source = self._seen[file] = inspect_source(self._environment, file, text)
        self._sources[file] = text
        for line, code, detail in source.faults:
            self._say("error", code, file, line, detail)
        for wanted, line in source.files.items():
            if wanted in (*path, file):
                detail = f"{wanted} includes itself: {' → '.join((*path, file, wanted))}"
                self._say("error", "include", file, line, detail)
            elif wanted not in self._shared or wanted.endswith(".mjml"):
                known = ", ".join(n for n in sorted(self._shared) if not n.endswith(".mjml"))
                detail = (
                    f"there is no {shorten(wanted)} to include; there are: {known or 'none'}"
                )
                self._say("error", "include", file, line, detail)
            else:
                self.uses.add(wanted)
                self._follow(wanted, self._shared[wanted], (*path, file))

    def _find_variables(self, file: str) -> dict[str, tuple[str, int]]:
        """Return the variables that *file* needs, with what it includes: where each is used."""
        found: dict[str, tuple[str, int]] = {}
        assigned: set[str] = set()
        todo, done = [file], set()
        while todo:
            name = todo.pop()
            if name in done or name not in self._seen:
                continue
            done.add(name)
            source = self._seen[name]
            for variable, line in source.variables.items():
                if variable not in assigned:
                    found.setdefault(variable, (name, line))
            assigned |= source.assigned
            todo += source.files
        return found

    def _check_variables(
        self, declaration: declare.Declaration, variants: Mapping[str, Variant]
    ) -> None:
        used: dict[str, tuple[str, int]] = {}
        for variant in variants.values():
            for file in (variant.subject, variant.html, variant.text):
                if file:
                    used |= self._find_variables(file)
        for name, (file, line) in used.items():
            if name not in declaration.names:
                detail = f"{name} is not declared; add [variables.{name}] to template.toml"
                self._say("error", "undeclared", file, line, detail)
        if self._is_bad:
            return
        for name in sorted(declaration.names - used.keys()):
            self._say("warning", "unused", declare.FILE, 0, f"variable {name} is never used")

    def _try_out(self, bundle: Bundle, declaration: declare.Declaration) -> None:
        """Render every language with the examples, and look at the mails."""
        missing = sorted(declaration.required - declaration.examples.keys())
        if missing:
            detail = f"{', '.join(missing)} have no example: nobody can preview or check this"
            self._say("warning", "example", declare.FILE, 0, detail)
            return
        for language, variant in bundle.variants.items():
            try:
                mail = render(bundle, build_environment(bundle), declaration.examples, language)
            except Faulty as error:
                for pointer, detail in error.faults:
                    where = pointer[1:].replace("/", ".") or "the examples"
                    file = error.file or variant.html or variant.text
                    self._say("error", "example", file, error.line, f"{where}: {detail}")
                continue
            except TooLarge as error:
                self._say("error", "size", variant.html or variant.text, 0, str(error))
                continue
            for level, code, file, detail in find_mail_findings(mail, variant, bundle):
                self._say(level, code, file, 0, detail)


def find_chain(language: str) -> list[str]:
    """Return *language* and what stands in for it: de-AT, de, and the default."""
    chain = []
    while language:
        chain.append(language)
        language = language.rpartition("-")[0]
    return [*chain, ""]
