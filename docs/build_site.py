"""Builds the site of the documentation in build/site: `make docs`.

The pages are collected in build/pages with the folders that they have in the repository, so that a link works in both.
Added are the page of the methods, the figure of each published board, and the notebook as a page.
"""

import base64
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import symbench
from benchmark import markdown
from benchmark.cli import catalogue

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "build" / "pages"
SOURCES = ("*.md", "docs/*.md", "results/published/README.md", "results/published/*/README.md")
NOTEBOOK = Path("docs/from-suite-to-figure.ipynb")
RUN_BY_A_TEST = {"start.md", "faq.md", "adding-a-baseline.md", "adding-a-dataset.md", "python.md"}
COMMAND = re.compile(r"^    symbench |^```console", re.MULTILINE)
NOT_RUN = "*Tests check that the commands of this page exist with their options, and do not run them.*"
LINK = re.compile(r"\]\(([^)#\s]+)")


def main() -> int:
    """Collect the pages and build the site; 1 if a link leads nowhere, or another warning of MkDocs."""
    shutil.rmtree(PAGES, ignore_errors=True)
    for source in sorted({path for pattern in SOURCES for path in ROOT.glob(pattern)}):
        text = source.read_text(encoding="utf-8")
        title, _, rest = text.partition("\n")
        is_marked = source.parent.name == "docs" and source.name not in RUN_BY_A_TEST and COMMAND.search(text)
        write(source.relative_to(ROOT), f"{title}\n\n{NOT_RUN}\n{rest}" if is_marked else text)
        for target in LINK.findall(text):
            linked = (source.parent / target).resolve()
            if linked.suffix != ".md" and linked.is_file() and linked.is_relative_to(ROOT):
                copy = PAGES / linked.relative_to(ROOT)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(linked, copy)
    for page in sorted(PAGES.glob("results/published/*/README.md")):
        add_figure(page)
    shutil.copy(ROOT / "docs" / "site.css", PAGES / "docs")
    write(Path("docs/methods.md"), methods())
    write(NOTEBOOK.with_suffix(".md"), notebook())
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", "docs/mkdocs.yml"]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def write(page: Path, text: str) -> None:
    """Write a page, named as in the repository."""
    path = PAGES / page
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def add_figure(page: Path) -> None:
    """Put the figure of a board below its title; a board of an early version has no value for each seed, and none."""
    title, _, text = page.read_text(encoding="utf-8").partition("\n")
    board = page.parent.name
    try:
        symbench.figure(board).savefig(page.with_name("figure.svg"))
    except symbench.UserError as error:
        figure = markdown.escape(f"No figure: {error}")
    else:
        figure = markdown.Markdown(f"![Error against the measured symmetry breaking, {board}](figure.svg)")
    page.write_text(f"{title}\n\n{figure}\n{text}", encoding="utf-8")


def methods() -> str:
    """Page of the methods, from what each baseline declares."""
    rows = sorted(catalogue.models(), key=lambda row: (row["family"], row["name"]))
    heads = ("method", "takes", "family", "keeps, or starts with", "source", "differs from its paper")
    lists = [(", ".join(r["kinds"]), r["family"], ", ".join(r["symmetries"])) for r in rows]
    cells = [(r["name"], *listed, r["source"], r["differs"]) for r, listed in zip(rows, lists, strict=True)]
    settings = [(r["name"], ", ".join(f"{key}={value}" for key, value in r["settings"].items())) for r in rows]
    return "\n\n".join(
        (
            "# Methods",
            "The table that `symbench list models` prints, from the files of the baselines. "
            "[Adding a baseline](adding-a-baseline.md) says how you add yours.",
            markdown.table(heads, cells),
            "## Settings and their defaults",
            markdown.table(("method", "settings"), settings),
        )
    )


def notebook() -> str:
    """The notebook as a page: its text, code and outputs."""
    parts = []
    for cell in json.loads((ROOT / NOTEBOOK).read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", ()):
            if picture := output["data"].get("image/png"):
                name = f"output-{len(parts)}.png"
                (PAGES / "docs" / name).write_bytes(base64.b64decode("".join(picture)))
                parts.append(f"![output of the cell above]({name})")
            else:
                parts.append("```text\n" + "".join(output["data"]["text/plain"]) + "\n```")
    return "\n\n".join(parts)


if __name__ == "__main__":
    sys.exit(main())
