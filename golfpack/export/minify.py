"""Source in fewer bytes: the same program without what only readers need, and packed into three lines.

`minify` changes names and layout, `pack` compresses. Contests that count code count the packed form.
"""

import ast
import builtins
import io
import itertools
import keyword
import lzma
import re
import token
import tokenize
from collections import Counter
from collections.abc import Collection, Iterator
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

from golfpack.errors import UsageError
from golfpack.export.scopes import Occurrence, Scope, occurrences

# With one of these, names or annotations can be asked for that no reader of the source sees.
_BY_NAME = {
    "eval", "exec", "globals", "locals", "vars", "__import__", "get_type_hints", "asdict", "fields",
}  # fmt: skip


def minify(
    source: str,
    *,
    keep: Collection[str] = (),
    attributes: Collection[str] = (),
) -> str:
    """The same program in fewer bytes.

    Docstrings, annotations and comments go; of dataclass fields, which need an annotation, it becomes 0.
    Functions' own names, arguments and global names become short. An argument keeps its name where a
    call by keyword cannot be told to mean this function. An attribute is shortened where a class of the
    source defines it and nothing that the source imports, and no builtin, has an attribute of that name;
    attributes of classes with a base from outside keep their names (state dicts have them).

    Args:
        source: of a whole program, or of a module whose users want nothing but `keep`.
        keep: global names that stay, with the names of their arguments and attributes.
        attributes: further attributes to shorten: the caller knows that they are the source's own.

    Raises:
        UsageError: the source finds names at run time (eval, globals, ...), or is none.
    """
    try:
        tree = ast.parse(source)
    except SyntaxError as e:
        raise UsageError(f"the source does not parse: {e}", "give Python that runs") from e
    _Strip().visit(tree)
    tree = ast.fix_missing_locations(tree)
    seen = occurrences(tree)
    asked = {o.name for o in seen if o.owner is None or isinstance(o.node, ast.alias)}
    if found := _BY_NAME & asked:
        raise UsageError(
            f"the source uses {min(found)}, which finds names at run time",
            "give source without it",
        )
    _rename_attributes(tree, keep, attributes)
    seen = occurrences(tree)
    _rename(tree, seen, frozenset(keep))
    return compact(_bare(ast.unparse(tree)))


def _bare(source: str) -> str:
    """Without the brackets around tuples and generators that `ast.unparse` writes and nobody needs."""
    out: list[str] = []
    for line in source.splitlines(keepends=True):
        match = re.fullmatch(r"( *(?:return|[\w, ]+ =) )\((.*)\)(\n?)", line)
        if match and _is_tuple(match[2]):
            line = f"{match[1]}{match[2]}{match[3]}"
        out.append(line)
    bare = "".join(out)
    return bare if ast.dump(ast.parse(bare)) == ast.dump(ast.parse(source)) else source


def _is_tuple(text: str) -> bool:
    """Whether a text without brackets is a tuple: its own brackets were the outermost ones."""
    try:
        value = ast.parse(f"({text})", mode="eval").body
        alone = ast.parse(f"x = {text}").body[0]
    except SyntaxError:
        return False
    return isinstance(value, ast.Tuple) and ast.dump(value) == ast.dump(
        getattr(alone, "value", value)
    )


# --- what only readers need ----------------------------------------------------------------------------


class _Strip(ast.NodeTransformer):
    """Takes out docstrings and annotations."""

    _in_class = False

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        node.body = _without_docstring(node.body)
        outer, self._in_class = self._in_class, False
        self.generic_visit(node)
        self._in_class = outer
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        node.body = _without_docstring(node.body)
        outer, self._in_class = self._in_class, True
        self.generic_visit(node)
        self._in_class = outer
        return node

    def visit_Module(self, node: ast.Module) -> ast.AST:
        node.body = _without_docstring(node.body, empty=True)
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        if self._in_class and "ClassVar" not in ast.dump(node.annotation):
            node.annotation = ast.Constant(0)
            return self.generic_visit(node)
        if node.value is None:
            return ast.Pass()
        return self.visit(ast.Assign([node.target], node.value, lineno=0))


def _without_docstring(body: list[ast.stmt], *, empty: bool = False) -> list[ast.stmt]:
    match body:
        case [ast.Expr(ast.Constant(str())), *rest]:
            return rest or ([] if empty else [ast.Pass()])
        case _:
            return body


# --- attributes ----------------------------------------------------------------------------------------


def _rename_attributes(tree: ast.Module, keep: Collection[str], more: Collection[str]) -> None:
    """Short names for attributes, and for the keywords that set them."""
    foreign = _foreign_attributes(tree)
    own = {n for n in _own_attributes(tree, keep) if n not in foreign} | set(more)
    texts = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)}
    own = {n for n in own if n not in texts or n in more} - set(keyword.kwlist)
    fields = _dataclass_fields(tree)
    own -= _by_keyword(tree, {k: v & own for k, v in fields.items()})
    counts = Counter(n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute))
    names = _short(foreign | (_all_attributes(tree) - own))
    short = {name: next(names) for name in sorted(own, key=lambda n: (-counts[n], n))}
    _Attributes(short, fields).visit(tree)


class _Attributes(ast.NodeTransformer):
    """Puts short names for attributes, in classes and wherever they are read."""

    def __init__(self, short: dict[str, str], fields: dict[str, set[str]]) -> None:
        self.short, self.fields = short, fields

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        node.attr = self.short.get(node.attr, node.attr)
        return self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        for part in node.body:
            match part:
                case ast.FunctionDef():
                    part.name = self.short.get(part.name, part.name)
                case ast.AnnAssign(target=ast.Name() as target):
                    target.id = self.short.get(target.id, target.id)
                case ast.Assign():
                    for target in part.targets:
                        if isinstance(target, ast.Name):
                            target.id = self.short.get(target.id, target.id)
                case _:
                    pass
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        fields = self.fields.get(getattr(node.func, "id", ""), set())
        for k in node.keywords:
            if k.arg in fields:
                k.arg = self.short.get(str(k.arg), k.arg)
        return self.generic_visit(node)


def _own_attributes(tree: ast.Module, keep: Collection[str]) -> set[str]:
    """Names of methods and fields of classes without a base from outside, and what they set on self."""
    classes = {n.name: n for n in ast.walk(tree) if isinstance(n, ast.ClassDef)}
    found: set[str] = set()
    barred: set[str] = set()
    for node in classes.values():
        own = _attributes_of(node)
        plain = all(isinstance(b, ast.Name) and b.id in classes for b in node.bases)
        (found if plain and node.name not in keep else barred).update(own)
    return {n for n in found - barred if not (n.startswith("__") and n.endswith("__"))}


def _attributes_of(node: ast.ClassDef) -> set[str]:
    found: set[str] = set()
    for part in node.body:
        if isinstance(part, ast.FunctionDef):
            found.add(part.name)
        elif isinstance(part, ast.AnnAssign | ast.Assign):
            targets = [part.target] if isinstance(part, ast.AnnAssign) else part.targets
            found |= {t.id for t in targets if isinstance(t, ast.Name)}
    for part in ast.walk(node):
        if isinstance(part, ast.Attribute) and not isinstance(part.ctx, ast.Load):
            found.add(part.attr)
    return found


def _all_attributes(tree: ast.Module) -> set[str]:
    return {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}


def _dataclass_fields(tree: ast.Module) -> dict[str, set[str]]:
    """Names of fields by class."""
    return {
        node.name: {
            part.target.id
            for part in node.body
            if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)
        }
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }


def _by_keyword(tree: ast.Module, fields: dict[str, set[str]]) -> set[str]:
    """Fields that calls set by a keyword, or by `**`, without naming the class."""
    every = set[str]().union(*fields.values())
    found: set[str] = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "id", "")
        for k in node.keywords:
            if k.arg is None:
                known = fields.get(name)
                found |= every if known is None and not _is_builtin(name) else known or set()
            elif name not in fields:
                found.add(k.arg)
    return found & every


def _is_builtin(name: str) -> bool:
    return name in dir(builtins)


def _foreign_attributes(tree: ast.Module) -> frozenset[str]:
    """Names of attributes that builtins have, and whatever the source imports."""
    modules: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules += [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules.append(node.module)
    found = set(_attributes_in("builtins"))
    for name in modules:
        found |= _attributes_in(name)
    return frozenset(found)


@cache
def _attributes_in(name: str) -> frozenset[str]:
    """Names in a module, and in its classes; of one that is not installed, none."""
    try:
        module: Any = import_module(name)
    except ImportError:
        return frozenset()
    found = set(dir(module))
    for value in [getattr(module, n, None) for n in dir(module)]:
        if isinstance(value, type | ModuleType):
            found |= set(dir(value))
    return frozenset(found)


# --- names ---------------------------------------------------------------------------------------------


def _rename(tree: ast.Module, seen: list[Occurrence], keep: frozenset[str]) -> None:
    """Short names for all that is bound in the source."""
    groups: dict[tuple[Scope, str], list[Occurrence]] = {}
    taken: set[str] = set(keep) | set(keyword.kwlist)
    fixed = _fixed_arguments(tree, seen, keep)
    for o in seen:
        owner = o.owner
        if owner is not None and not _stays(o, owner, fixed, keep):
            groups.setdefault((owner, o.name), []).append(o)
        else:
            taken.add(o.name)
    parameters = _parameters(tree, seen)
    order = sorted(groups.items(), key=lambda g: (g[0][0].kind != "module", -len(g[1])))
    chosen: dict[tuple[Scope, str], str] = {}
    in_use: dict[Scope, set[str]] = {}
    for (owner, name), places in order:
        barred = taken.union(*(in_use.get(s, set()) for s in _reach(owner, places)))
        short = next(n for n in _short(frozenset(barred)))
        chosen[owner, name] = short
        for scope in _reach(owner, places):
            in_use.setdefault(scope, set()).add(short)
    for (owner, name), places in groups.items():
        for o in places:
            o.rename(chosen[owner, name])
    _rename_keywords(parameters, {(id(s), n): c for (s, n), c in chosen.items()})


def _stays(o: Occurrence, owner: Scope, fixed: set[tuple[int, str]], keep: frozenset[str]) -> bool:
    """Whether a name is not to be shortened: names in class bodies are attributes."""
    if owner.kind == "class" or o.name.startswith("__"):
        return True
    return (id(owner), o.name) in fixed or (owner.kind == "module" and o.name in keep)


def _reach(owner: Scope, places: list[Occurrence]) -> set[Scope]:
    """The scopes in which a name is seen: its own, and all between it and each use."""
    found = {owner}
    for o in places:
        scope: Scope | None = o.scope
        while scope is not None and scope is not owner:
            found.add(scope)
            scope = scope.parent
    return found


def _functions(tree: ast.Module, seen: list[Occurrence]) -> Iterator[tuple[str, Scope | None, Any]]:
    """Every function with the scope of its arguments; its name where it is global, else ""."""
    scopes = {id(o.node): o.scope for o in seen if isinstance(o.node, ast.arg)}
    top = {id(n) for n in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.Lambda):
            every = _arguments(node)
            scope = scopes[id(every[0])] if every else None
            yield getattr(node, "name", "") if id(node) in top else "", scope, node


def _arguments(node: ast.FunctionDef | ast.Lambda) -> list[ast.arg]:
    a = node.args
    return [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]


def _fixed_arguments(
    tree: ast.Module, seen: list[Occurrence], keep: frozenset[str]
) -> set[tuple[int, str]]:
    """Arguments that keep their names: (id of their scope, name)."""
    of_globals: dict[str, int] = Counter(
        n.name for n in tree.body if isinstance(n, ast.FunctionDef)
    )
    keywords: set[str] = set()
    spread: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", "")
            for k in node.keywords:
                if k.arg is None:
                    spread.add(name)
                elif of_globals.get(name) != 1:
                    keywords.add(k.arg)
    classes = {n.name for n in ast.walk(tree) if isinstance(n, ast.ClassDef)}
    anything = any(not _is_builtin(n) and n not in of_globals and n not in classes for n in spread)
    fixed: set[tuple[int, str]] = set()
    for name, scope, node in _functions(tree, seen):
        held = name in keep or anything or name in spread
        for arg in _arguments(node):
            if scope is not None and (held or arg.arg in keywords):
                fixed.add((id(scope), arg.arg))
    return fixed


def _parameters(
    tree: ast.Module, seen: list[Occurrence]
) -> dict[int, tuple[ast.keyword, Scope, str]]:
    """Keywords in calls of global functions of the source, with the scope of the argument they set."""
    scopes = {n: s for n, s, _ in _functions(tree, seen) if n and s is not None}
    loads = {id(o.node): o for o in seen}
    found: dict[int, tuple[ast.keyword, Scope, str]] = {}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            continue
        owner = loads[id(node.func)].owner
        if owner is not None and owner.kind == "module" and node.func.id in scopes:
            for k in node.keywords:
                if k.arg is not None:
                    found[id(k)] = k, scopes[node.func.id], k.arg
    return found


def _rename_keywords(
    parameters: dict[int, tuple[ast.keyword, Scope, str]], chosen: dict[tuple[int, str], str]
) -> None:
    for k, scope, name in parameters.values():
        k.arg = chosen.get((id(scope), name), name)


def _short(barred: Collection[str]) -> Iterator[str]:
    """a, b, ..., aa, ab, ... without the barred ones and without keywords."""
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    for size in itertools.count(1):
        for found in itertools.product(letters, repeat=size):
            name = "".join(found)
            if name not in barred and not keyword.iskeyword(name):
                yield name


# --- layout --------------------------------------------------------------------------------------------

_BLANKS = {token.NEWLINE, token.NL, token.INDENT, token.DEDENT, token.COMMENT, token.ENDMARKER}


def compact(source: str) -> str:
    """The same tokens in fewer bytes: no comments, no blanks that can go, statements joined by `;`."""
    lines = _joined(list(_logical_lines(source)))
    return "\n".join(" " * depth + text for depth, text in lines) + "\n"


def _logical_lines(source: str) -> Iterator[tuple[int, str]]:
    """Every statement's line, and how deep it stands."""
    depth = 0
    text, last = "", None
    for t in _tokens(source):
        if t.type == token.INDENT:
            depth += 1
        elif t.type == token.DEDENT:
            depth -= 1
        elif t.type == token.NEWLINE:
            yield depth, text
            text, last = "", None
        elif t.type not in _BLANKS:
            text += (" " if last is not None and _needs_blank(last, t) else "") + t.string
            last = t
    if text:
        yield depth, text


def _needs_blank(left: tokenize.TokenInfo, right: tokenize.TokenInfo) -> bool:
    """Whether two tokens would be others without a blank between them."""
    if left.end == right.start:
        return False
    a, b = left.string[-1], right.string[0]
    if left.type == token.NUMBER:  # "0or" and the like are deprecated
        return _is_word(b) or b == "."
    if left.type == token.STRING:
        return right.type == token.STRING and (a == b or _is_word(b))
    return _is_word(a) and (_is_word(b) or (b in "'\"" and len(left.string) < 3))


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"


def _tokens(source: str) -> Iterator[tokenize.TokenInfo]:
    """The tokens of a source, an f-string as one of them (from Python 3.12 on it is several)."""
    lines = source.splitlines(keepends=True)
    begins: list[tokenize.TokenInfo] = []
    for t in tokenize.generate_tokens(io.StringIO(source).readline):
        kind = token.tok_name[t.type]
        if kind == "FSTRING_START":
            begins.append(t)
        elif kind == "FSTRING_END":
            first = begins.pop()
            if not begins:
                text = _between(lines, first.start, t.end)
                yield tokenize.TokenInfo(token.STRING, text, first.start, t.end, t.line)
        elif not begins:
            yield t


def _between(lines: list[str], start: tuple[int, int], end: tuple[int, int]) -> str:
    (first, left), (last, right) = start, end
    if first == last:
        return lines[first - 1][left:right]
    return "".join([lines[first - 1][left:], *lines[first : last - 1], lines[last - 1][:right]])


_COMPOUND = re.compile(
    r"(if|for|while|def|class|with|try|else|elif|except|finally|async)\b|@|.*:$"
    r"|(match|case)\b *[^ =.,)].*:",
    re.DOTALL,
)


def _joined(lines: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """Simple statements in a row on one line, on the line of their block where nothing else is in it."""
    out: list[tuple[int, str]] = []
    simple: list[bool] = []
    for depth, text in lines:
        if not _opens(text) and out and simple[-1] and out[-1][0] == depth:
            out[-1] = depth, f"{out[-1][1]};{text}"
        else:
            out.append((depth, text))
            simple.append(not _opens(text))
    done: list[tuple[int, str]] = []
    for i, (depth, text) in enumerate(out):
        alone = i + 1 == len(out) or out[i + 1][0] < depth
        inside = done and done[-1][0] == depth - 1 and done[-1][1].endswith(":") and i
        if simple[i] and alone and inside and out[i - 1][0] == depth - 1:
            done[-1] = depth - 1, done[-1][1] + text
        else:
            done.append((depth, text))
    return done


def _opens(text: str) -> bool:
    """Whether a line begins or belongs to a compound statement."""
    return _COMPOUND.match(text) is not None


# --- packing -------------------------------------------------------------------------------------------

_LOADER = (
    '#coding:l1\nimport lzma\nexec(lzma.decompress({0}{1}{0}.encode("l1"),3,None,[{{"id":33}}]))\n'
)
# Bytes that cannot stand in a string as they are, besides its quotes. A NUL takes four: the next may
# be a digit.
_ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\0": "\\x00"}
_DICTIONARY = 1 << 23


def pack(source: str) -> bytes:
    """A script of three lines that runs the source: raw LZMA2 in a string, 2% above its bytes.

    Line ends and NULs are escaped, so that nothing that treats the file as text changes it, but for a
    change of encoding: the file says that it is Latin-1 (PEP 263). The settings of the coder are those
    that give the fewest bytes; the decoder reads them from the data.
    """
    data = source.encode()
    assert len(data) <= _DICTIONARY, "the decoder's default dictionary is no larger"
    best: bytes | None = None
    for lc, lp, pb, nice in itertools.product(range(5), range(3), range(3), (32, 64, 128, 273)):
        if lc + lp > 4:
            continue
        settings = {"lc": lc, "lp": lp, "pb": pb, "nice_len": nice, "depth": 1000}
        settings |= {"id": lzma.FILTER_LZMA2, "mode": lzma.MODE_NORMAL, "mf": lzma.MF_BT4}
        settings["dict_size"] = max(1 << 12, 1 << (len(data) - 1).bit_length())  # of use: quick
        coded = lzma.compress(data, format=lzma.FORMAT_RAW, filters=[settings])
        if best is None or len(coded) < len(best):
            best = coded
    assert best is not None
    text = best.decode("latin-1")
    quote = min("\"'", key=text.count)
    escaped = text.translate(str.maketrans({**_ESCAPES, quote: f"\\{quote}"}))
    return _LOADER.format(quote, escaped).encode("latin-1")
