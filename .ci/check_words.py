"""Checks the names and the docstrings in lanas_jax, models and experiments against three rules of vocabulary.

1. No two public classes share a name.
2. No bare verb is a public function in several modules: ``read_idx`` and ``read_config``, not ``read`` twice.
3. The description of an argument or attribute stands alone. It does not begin with "of", "whether to", "the same" or
   another phrase that only continues the name before the colon: "steps: number of steps", not "steps: of each".

The commands find the parts of an experiment file by their names, so rules 1 and 2 do not apply to these names there,
nor to the functions of lanas_jax/one_call that users call by one word.

Prints one line per offence, ``file:line: message``, and exits with 1 if there is one. Needs the standard library alone.
"""

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("lanas_jax", "models", "experiments")
API_NAMES = {"search", "load"}  # handed on as lanas_jax.search and lanas_jax.load
EXPERIMENT_NAMES = {"Config", "Final", "Rank", "build", "final", "main", "rank", "stages"}
VERBS = frozenset(
    re.findall(
        r"\w+",
        """
        add apply ask begin build call check choose close collect compare compile compiled compute convert copy
        count create decode delete describe divide draw drawn encode estimate evaluate exists export extract fill
        find fit format get give init join judge keep kept learn list load lock make mark measure measured merge mix
        move open order parse pick place plan plot predict prepare print propose prune put rank read receive record
        reduce register remove render replace report require reserve resize restore resume run sample save score
        search select send set shared show sort split start step stop store take tell test time told train update
        use validate wait walk write
        """,
    )
)
SECTIONS = {"Args:", "Attributes:"}
STARTS = "of|to|by|that|which|what|where|how|whether to|the same"
FRAGMENT = re.compile(rf"(?P<name>[^:]+): (?P<start>{STARTS})\b", re.IGNORECASE)

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
Place = tuple[Path, int]  # file and line


def main() -> int:
    """Prints all offences and returns the exit code."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in python_files()}
    offences = sorted({*shared_names(trees), *fragments(trees)})
    for (path, line), message in offences:
        print(f"{path.relative_to(ROOT)}:{line}: {message}")
    return 1 if offences else 0


def python_files() -> list[Path]:
    """Returns the files to check."""
    return [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]


def shared_names(trees: dict[Path, ast.Module]) -> Iterator[tuple[Place, str]]:
    """Yields the places of public classes and of bare verbs that share their name (rules 1 and 2)."""
    places: dict[tuple[str, str], list[Place]] = defaultdict(list)
    for path, tree in trees.items():
        for node in public_definitions(tree.body):
            if node.name in EXPERIMENT_NAMES and path.is_relative_to(ROOT / "experiments"):
                continue
            if node.name in API_NAMES and path.is_relative_to(ROOT / "lanas_jax" / "one_call"):
                continue
            if isinstance(node, ast.ClassDef):
                places["class", node.name].append((path, node.lineno))
            elif node.name in VERBS:
                places["function", node.name].append((path, node.lineno))
    for (kind, name), found in places.items():
        for place in found if len(found) > 1 else ():
            others = ", ".join(str(path.relative_to(ROOT)) for path, _ in found if path != place[0])
            advice = "rename all but one" if kind == "class" else "say in the name what it acts on"
            yield place, f"{kind} {name} is also in {others}; {advice}"


def public_definitions(body: Iterable[ast.stmt]) -> Iterator[Definition]:
    """Yields the public classes and functions among the statements of a module."""
    for node in body:
        if isinstance(node, Definition) and not node.name.startswith("_"):
            yield node


def fragments(trees: dict[Path, ast.Module]) -> Iterator[tuple[Place, str]]:
    """Yields the places of descriptions that do not stand alone (rule 3)."""
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, Definition) and ast.get_docstring(node) is not None:
                docstring = node.body[0]
                for offset, entry in described(ast.get_docstring(node, clean=False) or ""):
                    if match := FRAGMENT.match(entry):
                        message = (
                            f"the description of {match['name']} begins with {match['start']!r}; begin with a noun"
                        )
                        yield (path, docstring.lineno + offset), message


def described(docstring: str) -> Iterator[tuple[int, str]]:
    """Yields line number in the docstring, from 0, and text of each line that describes an argument or attribute."""
    section, entries = None, None  # indentation of the section's title and of its entries
    for number, line in enumerate(docstring.splitlines()):
        indent, text = len(line) - len(line.lstrip()), line.strip()
        if text in SECTIONS:
            section, entries = indent, None
        elif text and section is not None and indent <= section:
            section = None
        elif text and section is not None:
            entries = indent if entries is None else entries
            if indent == entries:
                yield number, text


if __name__ == "__main__":
    sys.exit(main())
