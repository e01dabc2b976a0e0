"""The embedded corpus: English prose from the documentation that comes with Python and a few packages.

It needs no download, and it is real text: documents of several sentences on one subject, written by many hands. The
docstrings of a fixed list of modules are read from their source files, which are parsed, never imported. Code,
tables, signatures and markup are left out by simple rules. What comes out depends on the installed versions only;
`text_hash` tells two versions of it apart.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import os
import platform
import re
import sysconfig
import uuid
from collections.abc import Iterable, Iterator
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

FORMAT = 1
"""Version of the rules below; raised when they change, so that text kept on disk is extracted anew."""

SOURCES = {
    "numpy": [""],
    "torch": ["nn", "optim", "distributions", "distributed", "utils", "autograd", "fx", "cuda", "jit", "onnx"]
    + ["_torch_docs.py", "_tensor_docs.py", "_tensor.py", "functional.py", "serialization.py"],
    "transformers": [""],
    "tokenizers": [""],
    "huggingface_hub": [""],
    "datasets": [""],
    "accelerate": [""],
}
"""Packages and the files or folders of each that are read, besides the standard library."""

_SKIP = {"test", "tests", "testing", "site-packages", "idlelib", "lib2to3", "turtledemo", "encodings", "pydoc_data"}
_SKIP |= {"models"}  # of transformers: two thousand files of much the same
MINIMUM_CHARACTERS, MINIMUM_SENTENCES = 300, 3
"""Shorter documents are dropped."""


@lru_cache(maxsize=1)
def embedded_documents(cache_dir: str | None = None) -> list[str]:
    """The documents, paragraphs separated by line breaks.

    Extraction takes about ten seconds; its result is kept for this process and, with `cache_dir`, as a file there,
    named after the versions of Python and the packages.
    """
    if cache_dir is None:
        return _extract()
    versions = [platform.python_version(), *(version(package) for package in SOURCES)]
    digest = hashlib.blake2b(repr((FORMAT, versions)).encode(), digest_size=8).hexdigest()
    path = Path(cache_dir, f"embedded-{digest}.txt")
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
        unfinished.write_text("\n\n".join(_extract()), encoding="utf-8", newline="\n")
        os.replace(unfinished, path)
    return path.read_text(encoding="utf-8").split("\n\n")


def _extract() -> list[str]:
    """The documents, from the sources."""
    seen: set[str] = set()
    documents = []
    for docstrings in _sources():
        paragraphs = []
        for paragraph in (p for docstring in docstrings for p in prose(docstring)):
            if paragraph not in seen:  # boilerplate is kept once
                seen.add(paragraph)
                paragraphs.append(paragraph)
        text = "\n".join(paragraphs)
        if len(text) >= MINIMUM_CHARACTERS and len(_SENTENCE_END.findall(text)) >= MINIMUM_SENTENCES:
            documents.append(text)
    return documents


def text_hash(documents: Iterable[str]) -> str:
    """Twelve hex digits that stand for the text."""
    digest = hashlib.blake2b(digest_size=6)
    for document in documents:
        digest.update(document.encode() + b"\0")
    return digest.hexdigest()


_SENTENCE_END = re.compile(r"[.!?][\"')]*(?=\s|$)")
_DOCTEST = re.compile(r"^\s*(>>>|\.\.\. |\$ |In \[)")
_UNDERLINE = re.compile(r"([-=~*^#+_])\1{2,}")
_BULLET = re.compile(r"^(\s*)([*+•-]|\(?\d{1,2}[.)])\s+")
_MARKUP = [  # in this order
    (re.compile(r"\s*\[\w+\]_"), ""),  # footnotes
    (re.compile(r":[a-z]+(?::[a-z]+)?:`[~!]?([^`<]*?)\s*(?:<[^`>]*>)?`"), r"\1"),  # :class:`~x.y`
    (re.compile(r"``([^`]*)``|`([^`<]+?)\s*(?:<[^`>]*>)?`_{0,2}"), r"\1\2"),  # ``x``, `x`, `x <link>`_
    (re.compile(r"\*\*([^*\n]+)\*\*|(?<!\w)\*([^*\s][^*\n]*)\*(?!\w)"), r"\1\2"),  # **x**, *x*
    (re.compile(r"\[([^\]]+)\]\((?:[^)]*)\)"), r"\1"),  # [x](link)
    (re.compile(r"(?<!\w)\[~?([A-Za-z][\w.]*)\]"), r"\1"),  # [~x.y]
    (re.compile(r"\s+"), " "),
]
_MAYBE_PROSE = re.compile(r"[^a-z0-9_].{25}", re.DOTALL)  # spares `_clean` the rest
_PROSE = re.compile(r"[A-Z\"'(“‘].*[.!?:][\"')”’]?")
_UNLIKE_PROSE = re.compile(r"[^\w\s.,;:!?'\"()“”‘’–—/-]|_|\d|://")


def prose(docstring: str) -> list[str]:
    """The paragraphs of prose in a docstring, line breaks joined and markup removed.

    A paragraph counts as prose if it begins and ends as a sentence does, has at least six words and few signs of code.

    >>> prose('Return the sum of *values*, which may\\nbe empty.\\n\\n>>> total([])\\n0\\n')
    ['Return the sum of values, which may be empty.']
    """
    paragraphs = ("\n".join(lines) for lines in _paragraphs(docstring))
    return [text for text in map(_clean, filter(_MAYBE_PROSE.match, paragraphs)) if _is_prose(text)]


def _paragraphs(docstring: str) -> Iterator[list[str]]:
    """Runs of lines that stand together: cut at empty lines, list items and changes of indentation; no code blocks."""
    lines: list[str] = []
    indent = 0
    code_indent: int | None = None  # inside a block of code that follows a line of this indentation
    in_doctest = fenced = False
    for line in docstring.expandtabs().splitlines():
        body = line.strip()
        depth = len(line) - len(line.lstrip())
        if body.startswith(("```", "~~~")):
            fenced, body = not fenced, ""
        in_doctest = bool(body) and (in_doctest or bool(_DOCTEST.match(line)))
        if body and code_indent is not None and depth <= code_indent:
            code_indent = None
        if _UNDERLINE.fullmatch(body):  # of a heading, the line before
            lines, body = lines[:-1], ""
        if fenced or in_doctest or not body or code_indent is not None:
            if lines:
                yield lines
            lines = []
            continue
        bullet = _BULLET.match(line)
        if bullet:
            body, depth = line[bullet.end() :].strip(), bullet.end()
        if lines and (bullet or depth != indent):
            yield lines
            lines = []
        indent = depth
        if body.startswith(".. "):
            code_indent = len(line) - len(line.lstrip())
        else:
            lines.append(body)
            if body.endswith("::"):
                code_indent = len(line) - len(line.lstrip())
    if lines:
        yield lines


def _clean(text: str) -> str:
    for pattern, replacement in _MARKUP:
        text = pattern.sub(replacement, text)
    return text.strip().replace("::", ":")


def _is_prose(text: str) -> bool:
    return (
        text.count(" ") >= 5
        and _PROSE.fullmatch(text) is not None
        and len(_UNLIKE_PROSE.findall(text)) <= 0.03 * len(text)
    )


def _sources() -> Iterator[list[str]]:
    """Docstrings that belong together: one list for each help topic, module and class."""
    topics = Path(sysconfig.get_path("stdlib"), "pydoc_data", "topics.py")
    if topics.is_file():
        names = ast.literal_eval(ast.parse(topics.read_bytes()).body[-1].value)  # type: ignore[attr-defined]
        yield from ([names[name]] for name in sorted(names))
    for path in _source_files():
        try:
            module = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):  # templates and files for other versions of Python
            continue
        yield from _docstrings(module)


def _source_files() -> Iterator[Path]:
    """The standard library's files, then those of `SOURCES`."""
    yield from _python_files(Path(sysconfig.get_path("stdlib")))
    for package, parts in SOURCES.items():
        spec = importlib.util.find_spec(package)
        assert spec is not None and spec.origin is not None, package  # all of them are required to be installed
        for part in parts:
            yield from _python_files(Path(spec.origin).parent / part)


def _python_files(root: Path) -> list[Path]:
    if root.is_file():
        return [root]
    files = (p for p in root.rglob("*.py") if not _SKIP.intersection(p.relative_to(root).parts))
    return sorted(files, key=lambda p: p.relative_to(root).parts)


def _docstrings(module: ast.Module) -> Iterator[list[str]]:
    """Of a module: its own docstring with those of its functions; then of each class, with those of its methods."""
    own: list[str] = []
    classes: list[list[str]] = []
    for scope, found in [(module, own)] + [(c, []) for c in module.body if isinstance(c, ast.ClassDef)]:
        found.append(ast.get_docstring(scope) or "")
        for node in scope.body:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                found.append(ast.get_docstring(node) or "")
            elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):  # add_docstr(function, "…")
                strings = (a.value for a in ast.walk(node.value) if isinstance(a, ast.Constant))
                found += [inspect.cleandoc(s) for s in strings if isinstance(s, str) and "\n" in s]
        if scope is not module:
            classes.append(found)
    yield own
    yield from classes
