"""Gives mkdocs the repository's pages where they lie, so that a link holds on the site as well.

mkdocs reads one folder. The README, CONTRIBUTING, the results and their figures lie outside of it.
This hook replaces the list of files: every page keeps its path from the repository's root. A link
to a folder leads to a generated page that shows the folder's figures and lists its files.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", "docs/*.md", "experiments/results/**/*.md")
LINK = re.compile(r"(?<=\]\()([^)\s#]+)")


def on_files(files: Files, config: Any) -> Files:
    """Returns the pages, the files that they link to, and a page for every linked folder."""
    pages = sorted({path for pattern in PAGES for path in ROOT.glob(pattern)})
    linked = {target for page in pages for target in _targets(page)}
    folders = {path for path in linked if path.is_dir() and not (path / "README.md").exists()}
    listed = {file for folder in folders for file in folder.iterdir() if file.is_file()}
    plain = {path for path in linked if path.is_file()} | listed
    own = [
        File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path))
        for path in sorted(plain | set(pages))
    ]
    listings = [
        File.generated(
            config, f"{folder.relative_to(ROOT).as_posix()}/index.md", content=_listing(folder)
        )
        for folder in sorted(folders)
    ]
    theme = [file for file in files if not file.src_dir or Path(file.src_dir) != ROOT / "docs"]
    return Files([*theme, *own, *listings])


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Returns a page whose links to folders lead to the folders' pages."""
    source = ROOT / page.file.src_uri

    def page_of(match: re.Match[str]) -> str:
        target = _resolve(source, match[1])
        if target is None or not target.is_dir():
            return match[1]
        name = "README.md" if (target / "README.md").exists() else "index.md"
        return str(PurePosixPath(match[1]) / name)

    return LINK.sub(page_of, markdown)


def _targets(page: Path) -> list[Path]:
    """Returns the files and folders of the repository that a page links to."""
    found = (_resolve(page, link) for link in LINK.findall(page.read_text()))
    return [path for path in found if path is not None]


def _resolve(page: Path, link: str) -> Path | None:
    """Returns the path that a link of a page leads to; None for other sites and broken links."""
    path = (page.parent / link).resolve()
    return None if "://" in link or not path.exists() else path


def _listing(folder: Path) -> str:
    """Returns the page of a folder: its figures, then links to all files."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    figures = [f"![{name}]({name})\n" for name in names if name.endswith(".png")]
    files = [f"- [{name}]({name})" for name in names]
    return "\n".join([f"# {folder.relative_to(ROOT)}\n", *figures, *files, ""])
