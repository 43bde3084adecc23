"""What a repair may look like: the rules that a submission must keep before any of it is run.

Tests that come with a project assert in the process of the code that they test. Code that wants to can reach into that
process: patch pytest, read the wanted value in a frame, compare equal to everything. So a submission may change the
bodies of functions that are there, and in them use what the file uses already: no import, no class, no attribute or
name that leads into the interpreter. A function that needs such a thing (`getattr` of a name that is computed, a file,
a process) is only accepted as the project has it. That is a list of what is known, and no proof; what can be compared
outside, is (`verifying`).

This file is sent to a sandbox as source and runs there on three texts; nothing of them is executed. It needs the
standard library alone.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Collection, Iterator

SAFE_MODULES = frozenset(
    "math cmath itertools functools operator collections re datetime decimal fractions heapq bisect random statistics "
    "copy numbers textwrap unicodedata calendar abc time".split()
)
RISKY_NAMES = frozenset(
    "eval exec compile __import__ globals locals vars dir getattr setattr delattr hasattr open input breakpoint exit "
    "quit object super memoryview help classmethod property staticmethod __builtins__ __file__ __loader__ __spec__ "
    "attrgetter methodcaller update_wrapper wraps partialmethod cached_property singledispatch get_type_hints "
    "Formatter make_dataclass dataclass Enum namedtuple NamedTuple TypedDict ForwardRef import_module reload "
    "SystemExit KeyboardInterrupt GeneratorExit BaseException BaseExceptionGroup SkipTest MemoryError RecursionError "
    "AssertionError sys os io gc inspect ctypes subprocess importlib builtins threading signal atexit traceback types "
    "unittest pytest pickle marshal pathlib shutil tempfile socket code codecs pdb weakref warnings contextlib mock "
    "asyncio multiprocessing concurrent logging runpy site sysconfig tracemalloc faulthandler dis ast symtable".split()
)
RISKY_ATTRIBUTES = frozenset(
    "attrgetter methodcaller update_wrapper wraps partialmethod cached_property singledispatch get_type_hints "
    "Formatter get_field make_dataclass dataclass Enum namedtuple NamedTuple TypedDict import_module modules "
    "gi_frame cr_frame ag_frame f_back f_globals f_locals f_builtins f_code f_trace tb_frame tb_next gi_code cr_code "
    "func_globals mro with_traceback format_map".split()
)
POWERFUL = frozenset(
    "eval exec compile __import__ globals locals vars getattr setattr delattr open attrgetter methodcaller "
    "update_wrapper get_type_hints make_dataclass import_module".split()
)
BENIGN_MODULES = frozenset("warnings contextlib types abc typing typing_extensions enum dataclasses __future__".split())
_BUILT_IN_TYPES = (str, bytes, bytearray, int, float, complex, list, tuple, dict, set, frozenset, range, slice)
_MOST = 2**20  # characters of a file
Function = ast.FunctionDef | ast.AsyncFunctionDef


def broken(before: str, after: str, reference: str, own: Collection[str] = ()) -> str:
    """Which rule a changed file breaks, in words; empty for none.

    before: the file as the agent got it; after: as it was submitted; reference: the project's own. own: the project's
    packages, by their first names.
    """
    if len(after) > _MOST or len(after) > 2 * len(before) + 10_000:
        return f"the file has grown to {len(after)} characters"
    try:
        trees = [_parsed(text) for text in (before, after, reference)]
        skeletons = [ast.dump(_skeleton(_parsed(text))) for text in (before, after)]
    except SyntaxError as error:
        return f"line {error.lineno}: {error.msg}"
    except (ValueError, RecursionError, MemoryError) as error:
        return f"cannot be read: {type(error).__name__}"
    if skeletons[0] != skeletons[1]:
        return "something outside the bodies of its functions was changed (imports, signatures, classes, module level)"
    try:
        return _compared(trees[0], trees[1], trees[2], own)
    except RecursionError:
        return "nests too deep"


def _parsed(text: str) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(text)


def _compared(before: ast.Module, after: ast.Module, reference: ast.Module, packages: Collection[str]) -> str:
    known, own, was = _Known(reference, packages), dict(_functions(reference)), dict(_functions(before))
    for name, function in _functions(after):
        if name not in own or name not in was:
            return f"{name} is not one of its functions"
        bodies = [_dumped(one[name].body) for one in (own, was)]
        if _dumped(function.body) not in bodies:
            said = known.fault(function, own[name], was[name], method="." in name)
            if said:
                return f"{name}, {said}"
    return ""


def _functions(tree: ast.Module) -> Iterator[tuple[str, Function]]:
    """All outermost functions, in order; the second of one name is told apart."""
    seen: dict[str, int] = {}
    todo: list[tuple[str, ast.AST]] = [("", node) for node in reversed(tree.body)]
    while todo:
        prefix, node = todo.pop()
        if isinstance(node, Function):
            name = prefix + node.name
            seen[name] = seen.get(name, 0) + 1
            yield (name if seen[name] == 1 else f"{name}#{seen[name]}"), node
        else:
            below = f"{prefix}{node.name}." if isinstance(node, ast.ClassDef) else prefix
            todo += [(below, one) for one in reversed(list(ast.iter_child_nodes(node)))]


def _skeleton(tree: ast.Module) -> ast.Module:
    """The module with the bodies of its outermost functions taken out."""
    for _, function in _functions(tree):
        function.body = [ast.Pass()]
    return tree


def _dumped(body: list[ast.stmt]) -> str:
    return "\n".join(map(ast.dump, body))


class _Known:
    """The words of a file: what a repair may use."""

    def __init__(self, reference: ast.Module, own: Collection[str] = ()) -> None:
        self.safe = SAFE_MODULES | set(own)
        self.names = {node.id for node in ast.walk(reference) if isinstance(node, ast.Name)}
        self.names |= {node.name for node in ast.walk(reference) if isinstance(node, Function | ast.ClassDef)}
        self.names |= {node.arg for node in ast.walk(reference) if isinstance(node, ast.arg)}
        self.attributes = {node.attr for node in ast.walk(reference) if isinstance(node, ast.Attribute)}
        self.attributes |= {name for kind in _BUILT_IN_TYPES for name in dir(kind) if not name.startswith("_")}
        self.attributes -= RISKY_ATTRIBUTES
        self.texts = {node.value for node in ast.walk(reference) if isinstance(node, ast.Constant)}
        self.risky, self.strong = set(RISKY_NAMES), set(POWERFUL)
        for node in ast.walk(reference):  # what an import brings is as safe as the module that it comes from
            if isinstance(node, ast.Import):
                for one in node.names:
                    self._imported((one.asname or one.name).partition(".")[0], one.name)
            elif isinstance(node, ast.ImportFrom):
                for one in node.names:
                    self._imported(one.asname or one.name, "" if node.level else node.module or "")
                    if one.name in RISKY_NAMES:
                        self.risky.add(one.asname or one.name)
                    if one.name in POWERFUL:
                        self.strong.add(one.asname or one.name)

    def _imported(self, name: str, module: str) -> None:
        """module: empty for the project's own."""
        self.names.add(name)
        top = module.partition(".")[0]
        if top and top not in self.safe:
            self.risky.add(name)
            if top not in BENIGN_MODULES:
                self.strong.add(name)

    def powerful(self, function: Function) -> str:
        """What in a function of the project's own could be turned on the interpreter by other arguments; or empty."""
        for node in ast.walk(function):
            if isinstance(node, ast.Import):
                brought = [one.name.partition(".")[0] for one in node.names]
            elif isinstance(node, ast.ImportFrom):
                brought = [] if node.level else [(node.module or "").partition(".")[0]]
            else:
                brought = []
            if not set(brought) - {""} <= self.safe | BENIGN_MODULES:
                return f"an import of {brought[0]}"
            if isinstance(node, ast.Name) and node.id in POWERFUL:
                return node.id
            if isinstance(node, ast.Call):
                root: ast.AST = node.func
                while isinstance(root, ast.Attribute):
                    if root.attr in POWERFUL:
                        return root.attr
                    root = root.value
                if isinstance(root, ast.Name) and root.id in self.strong:
                    return root.id
        return ""

    def fault(self, function: Function, *originals: Function, method: bool = False) -> str:
        """What in a changed function is not allowed; empty for nothing. originals: what it was, what it should be.

        method: whether it stands in a class.
        """
        reach = next((found for one in originals if (found := self.powerful(one))), "")
        if reach:
            return f"it uses {reach}: only the project's own version of it is accepted"
        allowed = {ast.dump(node) for one in originals for node in ast.walk(one)}
        bound = _bound(function)
        held = _own_name(function) if method else ""
        own = {name for one in originals for name in _bound(one)}
        parents = {id(below): node for node in ast.walk(function) for below in ast.iter_child_nodes(node)}
        taken = sorted((bound - own) & self.risky)
        if taken:
            return f"the name {taken[0]!r} is given a meaning of its own"
        todo: list[ast.AST] = list(function.body)
        while todo:
            node = todo.pop()
            if ast.dump(node) in allowed and not isinstance(node, ast.Name):
                continue  # the whole of it is the project's own
            said = self._wrong(node, parents, allowed, bound, held)
            if said:
                return f"line {getattr(node, 'lineno', function.lineno)}: {said}"
            todo += list(ast.iter_child_nodes(node))
        return ""

    def _wrong(self, node: ast.AST, parents: dict[int, ast.AST], allowed: set[str], bound: set[str], held: str) -> str:
        if isinstance(node, ast.Name):
            return self._name(node, parents, allowed, bound)
        if isinstance(node, ast.Attribute):
            if node.attr not in self.attributes or _dunder(node.attr):
                return f"the attribute {node.attr!r} is none that the file uses"
            if not isinstance(node.ctx, ast.Load) and not (isinstance(node.value, ast.Name) and node.value.id == held):
                return f"the attribute {node.attr!r} of another object is set"
        elif isinstance(node, ast.Constant):
            if isinstance(node.value, str | bytes) and "__" in str(node.value) and node.value not in self.texts:
                return "a text with '__' in it"
        elif isinstance(node, ast.Import | ast.ImportFrom | ast.ClassDef | ast.Global | ast.Nonlocal):
            return f"{type(node).__name__.lower()} is not allowed in a repair"
        elif isinstance(node, Function | ast.arg | ast.keyword):
            word = node.name if isinstance(node, Function) else node.arg
            if word and _dunder(word):
                return f"the name {word!r}"
        elif isinstance(node, ast.MatchClass):
            return "a class pattern"
        elif isinstance(node, ast.ExceptHandler) and node.type is None:
            return "an except without an exception"
        return ""

    def _name(self, node: ast.Name, parents: dict[int, ast.AST], allowed: set[str], bound: set[str]) -> str:
        if _dunder(node.id):
            return f"the name {node.id!r}"
        parent = parents.get(id(node))
        if node.id in self.risky and node.id not in bound:
            whole = parent if isinstance(parent, ast.Attribute | ast.Call | ast.ExceptHandler | ast.Raise) else node
            if ast.dump(whole) not in allowed or whole is node:
                return f"{node.id} is used, and not as the function used it"
        elif node.id == "type" and not (
            isinstance(parent, ast.Call)
            and parent.func is node
            and len(parent.args) == 1
            and not isinstance(parent.args[0], ast.Starred)
            and not parent.keywords
        ):
            return "`type` is used, and not to ask for the type of one value"
        elif node.id not in self.names | bound and not _harmless(node.id):
            return f"the name {node.id!r} is none that the file uses"
        return ""


def _own_name(function: Function) -> str:
    """`self`, where it is what a method was called on and nothing else in the whole of it; empty otherwise."""
    if any(isinstance(one, ast.Name) and one.id in ("staticmethod", "classmethod") for one in function.decorator_list):
        return ""
    first = [*function.args.posonlyargs, *function.args.args][:1]
    below = [node for node in ast.walk(function) if node not in (function, *first)]
    again = {name for node in below for name in ((node.arg,) if isinstance(node, ast.arg) else ())}
    named = {node.id for node in below if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    inner = {getattr(node, "name", None) or getattr(node, "rest", None) for node in below}
    return "self" if first and first[0].arg == "self" and "self" not in again | named | inner else ""


def _bound(function: Function) -> set[str]:
    """The names that are given a value somewhere in a function, in whatever scope."""
    found: set[str] = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, Function | ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node is not function:
            found.add(node.name or "")
        elif isinstance(node, ast.MatchMapping):
            found.add(node.rest or "")
    return found - {""}


def open_to_repair(source: str, own: Collection[str] = ()) -> set[str]:
    """The functions of a file, by qualified name, of which another version than the project's own can be accepted."""
    tree = _parsed(source)
    known = _Known(tree, own)
    return {name for name, function in _functions(tree) if not known.powerful(function)}


def _dunder(word: str) -> bool:
    return word.startswith("__")


def _harmless(name: str) -> bool:
    """Whether it is a built-in name that leads nowhere."""
    import builtins

    return hasattr(builtins, name) and name not in RISKY_NAMES


def main() -> None:
    """What runs in the sandbox: lists of [before, after, reference, own] come in as JSON, a text for each goes out."""
    import json
    import sys

    print(json.dumps([broken(*texts) for texts in json.load(sys.stdin)]))
