"""Python sources as documents: one for each public class, function and module that has a docstring.

Sources are parsed and never imported. A document is a signature, a parameter a line, and the docstring as it stands.
"""

from __future__ import annotations

import ast
import inspect
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from askesis.envs.research.corpus.entries import Entry, Fact, Link, V, X, normal
from askesis.envs.research.corpus.sentences import blanks
from askesis.tools.search import Document

_SHORTEST = 30  # characters of a docstring worth asking about
_SECTION = re.compile(r"^([A-Z][A-Za-z ]+)\n-{3,}[ \t]*\n", re.MULTILINE)
_NAME = re.compile(r"(?::\w+:)?`?~?\.?([A-Za-z_][\w.]*)`?")
_ADDED = re.compile(r"^\.\. versionadded:: *(\d[\w.]*\d|\d)\s*$", re.MULTILINE)
_RAISES = re.compile(r"^Raises:\n((?:[ \t]+\S.*(?:\n|\Z))+)", re.MULTILINE)
_ERROR = re.compile(r"\w*(?:Error|Exception|Warning|Interrupt|Exit|NetworkX\w+|Not\w+)\b")
_LONGEST_DEFAULT = 40
_DULL = {"None", "...", "()", "''", "[]", "{}"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True, kw_only=True)
class Lead:
    """A link by name, before it is known whether anything of that name is there."""

    phrase: str
    name: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """An entry whose links are names. scope: the module or class that it stands in; title: its name there."""

    entry: Entry
    scope: str
    title: str
    leads: Sequence[Lead] = ()


def drafts(source: str, *, module: str, package: str, date: str, group: str) -> list[Draft]:
    """The documents of one module; none of what this version of Python cannot parse."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other people's escapes
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return []
    about = _About(package=package, date=date, group=group)
    found = []
    text = _docstring(tree)
    if text:
        found.append(about.draft(module, "", module, text, facts=blanks(text, package)))
    for node in tree.body:
        if isinstance(node, Function) and not node.name.startswith("_"):
            found += about.function(node, scope=module, title=node.name)
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            found += about.klass(node, scope=module)
    return found


def resolved(found: Sequence[Draft], package: str) -> list[Entry]:
    """The entries of a package: subjects that tell each from all others, and links to what is there and known by name.

    Of several documents of one name the first is kept.
    """
    kept: dict[str, Draft] = {}
    titles: dict[str, list[str]] = {}
    for draft in found:
        if kept.setdefault(draft.entry.document.id, draft) is draft:
            titles.setdefault(draft.title, []).append(draft.entry.document.id)
    entries = []
    for id, draft in kept.items():
        alone = len(titles[draft.title]) == 1
        subject = f"`{draft.title}` of {package}" if alone else f"`{id}`"
        links = []
        for lead in draft.leads:
            target = _target(lead.name, draft, titles, kept)
            if target is not None and target != id:
                links.append(Link(phrase=lead.phrase, target=target, text=lead.text))
        entries.append(replace(draft.entry, subject=subject, links=tuple(links)))
    return entries


def _target(name: str, draft: Draft, titles: Mapping[str, Sequence[str]], kept: Mapping[str, Draft]) -> str | None:
    """The one document that a name means where `draft` names it: the nearest, else the only one of that name."""
    if name in kept:
        return name
    for near in (f"{draft.scope}.{name}", f"{draft.scope.rpartition('.')[0]}.{name}"):
        if near in kept:
            return near
    ends = [id for id in titles.get(name, ()) if id]
    if not ends:
        last = name.rpartition(".")[2]
        ends = [id for id in titles.get(last, ()) if id.endswith(f".{name}")] or list(titles.get(last, ()))
    return ends[0] if len(ends) == 1 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _About:
    """What all documents of a module share."""

    package: str
    date: str
    group: str

    def draft(
        self,
        scope: str,
        title: str,
        id: str,
        text: str,
        *,
        head: str = "",
        facts: Sequence[Fact] = (),
        leads: Sequence[Lead] = (),
    ) -> Draft:
        document = Document(
            id=id,
            body="\n\n".join(filter(None, (head, text))),
            title=title or id,
            source=self.package,
            date=self.date,
        )
        entry = Entry(
            document=document, group=self.group, subject="", described=_first_sentence(text), facts=tuple(facts)
        )
        return Draft(entry=entry, scope=scope, title=title or id, leads=tuple(leads))

    def function(self, node: Function, *, scope: str, title: str, owner: str = "") -> Iterator[Draft]:
        text = _docstring(node)
        if len(text) < _SHORTEST:
            return
        head, parameters = _signature(title, node, bound=bool(owner) and not _static(node))
        facts = [*self._defaults(parameters), *self._docstring(text), *blanks(text, self.package)]
        described = _first_sentence(text)
        if owner and described:
            facts.append(self._owner(owner, described))
        leads = [*_see_also(text)]
        if (returned := _class_name(node.returns)) is not None:
            said = f"-> {_shown(node.returns)}"
            leads.append(Lead(phrase=f"the class of what {X} returns", name=returned, text=said))
        yield self.draft(scope, title, f"{scope}.{node.name}", text, head=head, facts=facts, leads=leads)

    def klass(self, node: ast.ClassDef, *, scope: str) -> Iterator[Draft]:
        here = f"{scope}.{node.name}"
        methods = {one.name: one for one in node.body if isinstance(one, Function)}
        text = _docstring(node)
        if len(text) >= _SHORTEST:
            bases = [base for base in map(_class_name, node.bases) if base not in (None, "object")]
            line = f"class {node.name}({', '.join(_shown(base) for base in node.bases)})"
            head, facts, leads = line, [], [*_see_also(text)]
            if "__init__" in methods:
                shown, parameters = _signature(node.name, methods["__init__"], bound=True)
                head, facts = f"{line}\n\n{shown}", self._defaults(parameters)
            if len(bases) == len(node.bases) == 1 and bases[0]:
                facts.append(self._base(bases[0], line))
                leads.append(Lead(phrase=f"the class that {X} derives from", name=bases[0], text=line))
            facts += [*self._docstring(text), *blanks(text, self.package)]
            yield self.draft(scope, node.name, here, text, head=head, facts=facts, leads=leads)
        for name, method in methods.items():
            if not name.startswith("_"):
                yield from self.function(method, scope=here, title=f"{node.name}.{name}", owner=node.name)

    # -- facts ---------------------------------------------------------------------------------------------------------

    def _defaults(self, parameters: Sequence[tuple[str, str, str]]) -> list[Fact]:
        """What parameters are where they are not given."""
        return [
            Fact(
                kind="default",
                question=f"What default does {X} give its parameter `{name}`?",
                claim=f"{X} gives its parameter `{name}` the default {V}.",
                value=value,
                text=line,
                pool=f"{self.package}/default/{_sort(value)}",
            )
            for name, value, line in parameters
            if value not in _DULL and len(value) <= _LONGEST_DEFAULT
        ]

    def _base(self, base: str, line: str) -> Fact:
        return Fact(
            kind="base",
            question=f"Which class does {X} derive from?",
            claim=f"{X} derives from {V}.",
            value=base,
            text=line,
            pool=f"{self.package}/class",
            also=_bare(base),
        )

    def _owner(self, owner: str, described: str) -> Fact:
        return Fact(
            kind="owner",
            question=f'Which class of {self.package} has a method that is described as "{described}"?',
            claim=f'The class of {self.package} with the method that is described as "{described}" is {V}.',
            value=owner,
            text=described,
            pool=f"{self.package}/class",
        )

    def _docstring(self, text: str) -> Iterator[Fact]:
        """What a docstring's sections say in a form that is the same everywhere."""
        added = _ADDED.findall(text)
        if len(added) == 1:
            yield Fact(
                kind="version",
                question=f"In which version was {X} added?",
                claim=f"{X} was added in version {V}.",
                value=added[0],
                text=f".. versionadded:: {added[0]}",
                pool=f"{self.package}/version",
            )
        raised = _raised(text)
        if raised is not None:
            error, line = raised
            yield Fact(
                kind="raises",
                question=f"Which exception is {X} documented to raise?",
                claim=f"{X} is documented to raise {V}.",
                value=error,
                text=line,
                pool=f"{self.package}/exception",
                also=_bare(error),
            )


def _docstring(node: ast.Module | ast.ClassDef | Function) -> str:
    return inspect.cleandoc(ast.get_docstring(node, clean=False) or "")


def _first_sentence(text: str) -> str:
    """A docstring's first paragraph, if it is one short sentence."""
    first = normal(text.split("\n\n", 1)[0])
    wanted = 20 <= len(first) <= 160 and first.count(" ") >= 3 and '"' not in first
    return first if wanted and not re.match(r"[\w.]+\(", first) else ""  # no signature, as compiled functions have it


def _static(node: Function) -> bool:
    return any(isinstance(one, ast.Name) and one.id == "staticmethod" for one in node.decorator_list)


def _shown(node: ast.expr | None) -> str:
    return "" if node is None else ast.unparse(node)


def _class_name(node: ast.expr | None) -> str | None:
    """`Table` or `module.Table`, also as a string; None for anything that is more than a name."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value if re.fullmatch(r"[A-Za-z_][\w.]*", node.value) else None
    return ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else None


def _signature(title: str, node: Function, *, bound: bool) -> tuple[str, list[tuple[str, str, str]]]:
    """A signature, a parameter a line; and (name, default, line) of the parameters that have one."""
    given = node.args
    plain = [*given.posonlyargs, *given.args]
    defaults: list[ast.expr | None] = [*[None] * (len(plain) - len(given.defaults)), *given.defaults]
    lines: list[str] = []
    found: list[tuple[str, str, str]] = []

    def add(one: ast.arg, default: ast.expr | None) -> None:
        kind = f": {ast.unparse(one.annotation)}" if one.annotation else ""
        value = _shown(default)
        equals = f" = {value}" if kind else f"={value}"
        lines.append(f"{one.arg}{kind}{equals if value else ''},")
        if value:
            found.append((one.arg, value, lines[-1]))

    for at, (one, default) in enumerate(zip(plain, defaults, strict=True)):
        if not (at == 0 and bound):
            add(one, default)
    if given.vararg:
        lines.append(f"*{given.vararg.arg},")
    elif given.kwonlyargs:
        lines.append("*,")
    for one, default in zip(given.kwonlyargs, given.kw_defaults, strict=True):
        add(one, default)
    if given.kwarg:
        lines.append(f"**{given.kwarg.arg},")
    inside = "".join(f"\n    {line}" for line in lines)
    returned = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{title}({inside}{chr(10) if lines else ''}){returned}", found


def _sections(text: str) -> dict[str, tuple[str, str]]:
    """A docstring's sections, underlined as numpydoc has them: header with its line, and content, by name."""
    marks = list(_SECTION.finditer(text))
    ends = [*(mark.start() for mark in marks[1:]), len(text)][: len(marks)]
    return {
        mark.group(1).strip().lower(): (mark.group(), text[mark.end() : end])
        for mark, end in zip(marks, ends, strict=True)
    }


def _see_also(text: str) -> Iterator[Lead]:
    """What stands first under See Also."""
    header, content = _sections(text).get("see also", ("", ""))
    line = content.split("\n", 1)[0].strip()
    match = _NAME.match(line)
    if match:
        said = normal(f"{header} {line[: match.end()]}")
        yield Lead(phrase=f"what {X} names first under See Also", name=match.group(1).rstrip("."), text=said)


def _raised(text: str) -> tuple[str, str] | None:
    """The exception that a docstring names, and the beginning of what it says of it; None for none or several."""
    header, content = _sections(text).get("raises", ("", ""))
    if content:
        lines = [line for line in content.splitlines() if line and not line[0].isspace()]
        names = [line.strip().rstrip(":") for line in lines]
        if len(names) == 1 and _ERROR.fullmatch(names[0].rpartition(".")[2]):
            return names[0], normal(f"{header} {names[0]}")
        return None
    match = _RAISES.search(text)
    if match is None:
        return None
    indent = len(match.group(1)) - len(match.group(1).lstrip())
    lines = [line for line in match.group(1).splitlines() if len(line) - len(line.lstrip()) == indent]
    named = [line.strip().partition(":")[0] for line in lines]
    if len(named) == 1 and _ERROR.fullmatch(named[0].rpartition(".")[2]):
        return named[0], normal(f"Raises: {named[0]}:")
    return None


def _bare(name: str) -> tuple[str, ...]:
    """A dotted name without what is before it, if there is something."""
    return (name.rpartition(".")[2],) if "." in name else ()


def _sort(value: str) -> str:
    """What could stand in a default's place."""
    if value in ("True", "False"):
        return "bool"
    if value[0] in "'\"":
        return "text"
    return "number" if re.fullmatch(r"-?[\d.]+(?:e-?\d+)?", value) else "other"
