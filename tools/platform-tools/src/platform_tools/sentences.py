"""`scripts/draw-sentences`: sentences drawn at random from docstrings, comments, documents and messages.

Supports a check of the writing standard: rewrite each sentence that needs a second reading.
"""

import argparse
import ast
import io
import random
import re
import subprocess
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from platform_tools.checkout import ROOT

SENTENCE_END = re.compile(r"(?<=[.!?:])\s+(?=[A-Z`\"])")
FEWEST_WORDS = 4
MESSAGE = re.compile(r"[a-z].* [a-z]+ .*[a-z]")
GENERATED = ("docs/metrics.md", "docs/signals.md", "docs/configuration.md", "docs/routing-rules.md")


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence and its place; ``kind`` is docstring, comment, message or document."""

    kind: str
    path: str
    line: int
    text: str


def main(arguments: list[str]) -> int:
    """Print the drawn sentences with their places and the seed that draws them again."""
    parser = argparse.ArgumentParser(prog="draw-sentences", description=__doc__)
    parser.add_argument("--count", type=int, default=50, help="how many (default 50)")
    parser.add_argument("--seed", type=int, default=None, help="draw the same ones again")
    parser.add_argument("--under", default="", help="only below this folder")
    options = parser.parse_args(arguments)
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    found = [one for path in tracked(options.under) for one in sentences_of(path)]
    drawn = random.Random(seed).sample(found, min(options.count, len(found)))
    for number, one in enumerate(drawn, 1):
        print(f"{number:3} {one.kind:9} {one.path}:{one.line}\n    {one.text}")
    print(f"\n{len(drawn)} of {len(found)} sentences, seed {seed}")
    return 0


def tracked(under: str) -> list[Path]:
    """Return the hand-written Python and Markdown files below ``under``."""
    listing = ["git", "ls-files", "*.py", "*.md"]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [ROOT / name for name in names if name.startswith(under) and name not in GENERATED]


def sentences_of(path: Path) -> Iterator[Sentence]:
    """Yield every sentence of a file."""
    name, text = str(path.relative_to(ROOT)), path.read_text()
    pieces = document(text) if path.suffix == ".md" else source(text)
    for kind, line, piece in pieces:
        for sentence in SENTENCE_END.split(" ".join(piece.split())):
            if len(sentence.split()) >= FEWEST_WORDS:
                yield Sentence(kind, name, line, sentence)


def document(text: str) -> Iterator[tuple[str, int, str]]:
    """Yield the paragraphs and table cells of a Markdown text, without code blocks."""
    inside, begun = False, 0
    paragraph: list[str] = []
    for number, line in enumerate([*text.splitlines(), ""], 1):
        if line.startswith("```"):
            inside = not inside
        elif inside:
            continue
        elif line.startswith("|"):
            yield from (
                ("document", number, cell)
                for cell in line.strip("|").split("|")
                if not set(cell) <= set("-: ")
            )
        elif line.strip() and not line.startswith("#"):
            begun = begun if paragraph else number
            paragraph.append(line.strip("-* "))
        elif paragraph:
            yield "document", begun, " ".join(paragraph)
            paragraph = []


def source(text: str) -> Iterator[tuple[str, int, str]]:
    """Yield the docstrings, comments and messages of Python source."""
    tree = ast.parse(text)
    docstrings = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        first = node.body[0] if node.body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            docstrings.add(first.value)
            yield "docstring", first.lineno, str(first.value.value)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str) or node in docstrings:
            continue
        if MESSAGE.search(node.value) and "\n" not in node.value:
            yield "message", node.lineno, node.value
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT and "noqa" not in token.string and "type:" not in token.string:
            yield "comment", token.start[0], token.string.lstrip("# ")
