"""Prepares the pages of the documentation site (hooks of mkdocs.yml).

- README.md is the home page; CHANGELOG.md, CONTRIBUTING.md and other files of the repository are pages or files, too.
- A link from one of the repository's files to another becomes a link between their pages.
- A picture with a dark and a light version follows the color scheme of the site.
- A page of docs/ that mkdocs.yml does not list is added to the section "Guides".
- The help text of the command `lanas` is a page.
- A notebook of examples/ becomes a page: its text, its code, and its outputs if `make notebooks` has run it.
- A page that loads scripts, styles or pictures from another place is an error.
"""

import ast
import base64
import json
import os
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
EXECUTED = ROOT / "build" / "notebooks"
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "lanas_jax/tables/shipped/README.md": "shipped_tables.md",
    "CITATION.cff": "CITATION.cff",
    "LICENSE": "LICENSE",
}
SOURCES = {page: source for source, page in PAGES.items()}
LINK = re.compile(r"(?P<start>\]\()(?P<target>[^)#\s]+)(?P<end>(?:#[^)\s]*)?\))")
PICTURE = re.compile(
    r'<picture>\s*<source media="\(prefers-color-scheme: dark\)" srcset="(?P<dark>[^"]+)">\s*'
    r'<img alt="(?P<alt>[^"]*)" src="(?P<light>[^"]+)"[^>]*>\s*</picture>'
)
LOADED = re.compile(
    r'<(?:script|img|source|iframe)[^>]*?(?:src|srcset)="(?:https?:)?//|<link[^>]*stylesheet[^>]*"https?:'
)
FENCE = re.compile(r"^(```.*?^```)", re.MULTILINE | re.DOTALL)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Adds the pages that the navigation does not list."""
    nav: list[Any] = config.nav or []
    listed = set(listed_pages(nav))
    (guides,) = (entry["Guides"] for entry in nav if "Guides" in entry)
    guides += sorted(file.name for file in Path(config.docs_dir).glob("*.md") if file.name not in listed)
    if notebooks := notebook_pages():
        nav.insert(2, {"Notebooks": list(notebooks)})
    return config


def listed_pages(nav: Any) -> list[str]:
    """Returns the pages in a navigation, or in a part of one."""
    if isinstance(nav, str):
        return [nav]
    parts = nav.values() if isinstance(nav, dict) else nav
    return [page for part in parts for page in listed_pages(part)]


def notebook_pages() -> dict[str, Path]:
    """Returns the notebooks by the names of their pages."""
    return {f"examples/{file.stem}.md": file for file in sorted((ROOT / "examples").glob("*.ipynb"))}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are made from files outside of docs/."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    files.append(File.generated(config, "reference/commands.md", content=commands_text()))
    for page, notebook in notebook_pages().items():
        files.append(File.generated(config, page, content=notebook_text(notebook)))
    return files


def commands_text() -> str:
    """Returns the page of the commands: the help text in lanas_jax/cli.py."""
    tree = ast.parse((ROOT / "lanas_jax" / "cli.py").read_text(encoding="utf-8"))
    (text,) = (
        node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and node.targets[0].id == "HELP"
    )
    return f"# Commands\n\nThe output of `lanas --help`:\n\n```text\n{text}```\n"


def notebook_text(notebook: Path) -> str:
    """Returns the text, the code and the outputs of a notebook as Markdown."""
    executed = EXECUTED / notebook.name
    path = executed if executed.exists() else notebook
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        parts.append(f"```python\n{text}\n```" if cell["cell_type"] == "code" else text)
        parts += [shown for output in cell.get("outputs", ()) if (shown := output_text(output))]
    parts.append(f"The notebook is `examples/{notebook.name}`.")
    return "\n\n".join(parts)


def output_text(output: dict[str, Any]) -> str:
    """Returns one output of a cell as Markdown: a picture, HTML or text."""
    data = output.get("data", {})
    for kind in ("image/png", "image/jpeg"):
        if kind in data:
            return f'<img class="output" alt="output of the cell" src="data:{kind};base64,{joined(data[kind])}">'
    if "image/svg+xml" in data:
        source = base64.b64encode(joined(data["image/svg+xml"]).encode()).decode()
        return f'<img class="output" alt="output of the cell" src="data:image/svg+xml;base64,{source}">'
    if "text/html" in data:
        lines = [line for line in joined(data["text/html"]).splitlines() if line.strip()]
        return f'<div class="output">{" ".join(lines)}</div>'
    text = joined(output.get("text", data.get("text/plain", ""))).rstrip()
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    return f"```text\n{text}\n```" if text else ""


def joined(lines: str | list[str]) -> str:
    """Returns text that a notebook stores in one piece or line by line."""
    return lines if isinstance(lines, str) else "".join(lines)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrites the links and the pictures of a page."""
    del config, files
    path = page.file.src_uri
    source = SOURCES.get(path, path if path.startswith("examples/") else f"docs/{path}")

    def moved(target: str) -> str:
        """Returns a link to a file of the repository as a link to its page."""
        if ":" in target:
            return target
        file = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if file in PAGES:
            target_page = PAGES[file]
        elif file.startswith("docs/"):
            target_page = file.removeprefix("docs/")
        elif file.startswith("examples/") and file.endswith(".ipynb"):
            target_page = file.removesuffix(".ipynb") + ".md"
        else:
            return target
        return posixpath.relpath(target_page, posixpath.dirname(path) or os.curdir)

    def linked(text: str) -> str:
        text = PICTURE.sub(
            lambda found: (
                f"![{found['alt']}]({found['light']}#only-light)\n![{found['alt']}]({found['dark']}#only-dark)"
            ),
            text,
        )
        return LINK.sub(lambda found: f"{found['start']}{moved(found['target'])}{found['end']}", text)

    parts = FENCE.split(markdown)  # code is at odd positions
    return "".join(part if i % 2 else linked(part) for i, part in enumerate(parts))


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Checks that the page is complete without a network.

    Raises:
      PluginError: it loads something from another place.
    """
    del config
    if found := LOADED.search(output):
        raise PluginError(f"{page.file.src_uri} loads from another place: {output[found.start() :][:200]}")
    return output
