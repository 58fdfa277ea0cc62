"""MkDocs' hook: generated pages, pages that lie outside of docs/, and links that work in both."""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from option_pages import LISTED, anchor_of, group_pages, pages

ROOT = Path(__file__).parents[2]
STUDIES = sorted(path.parent.name for path in ROOT.glob("experiments/*/README.md"))
CODE = r"(?ms:^```.*?^```)"
LINK = r"(?P<start>!?\[(?P<text>[^\]]*)\])\((?!\w+:)(?P<target>[^)#\s]+)(?P<anchor>#[^)]*)?\)"
LINKS = re.compile(rf"{CODE}|{LINK}|`[^`\n]+`")  # code is passed by, and what is in it
OPTION = re.compile(r"conf/(?P<group>hydra/sweeper|\w+)(?:/(?P<option>.*)\.yaml)?")


def outside() -> dict[str, str]:
    """Files of the repository that become pages and pictures of the site, by their addresses."""
    found = {"contributing.md": "CONTRIBUTING.md", "changes.md": "CHANGELOG.md"}
    for study in STUDIES:
        found[f"experiments/{study}.md"] = f"experiments/{study}/README.md"
        for picture in sorted((ROOT / "experiments" / study).glob("*.png")):
            found[f"experiments/{study}/{picture.name}"] = str(picture.relative_to(ROOT))
    return found


OUTSIDE = outside()
ADDRESSES = {
    "README.md": "index.md",
    "conf/run.yaml": "config/index.md",
    **{file: address for address, file in OUTSIDE.items()},
}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Headings have the addresses that repository browsers give them; the navigation is filled."""
    config.mdx_configs["toc"]["slugify"] = anchor_of
    filled = {
        "Configuration": [*group_pages().values()],
        "Studies": [f"experiments/{study}.md" for study in STUDIES],
    }
    for section in config.nav or []:
        for title, more in filled.items():
            if title in section:
                section[title] = [*section[title], *more]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is generated and what lies elsewhere."""
    for address, content in pages().items():
        files.append(File.generated(config, address, content=content))
    for address, file in OUTSIDE.items():
        files.append(File.generated(config, address, abs_src_path=str(ROOT / file)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Links as they are written for a repository's browser, made those of the site."""
    address = page.file.src_uri
    here = OUTSIDE.get(address, f"docs/{address}")
    return LINKS.sub(lambda found: of_site(found, here, address), markdown)


def of_site(link: re.Match[str], here: str, address: str) -> str:
    """A link in a file of the repository, in the page of that file.

    Options lead to the page of their group. What the site doesn't have is named by its path; what
    is nowhere is left for MkDocs to refuse.
    """
    if link["target"] is None:
        return link[0]
    file = posixpath.normpath(posixpath.join(posixpath.dirname(here), link["target"]))
    anchor = link["anchor"] or ""
    option = OPTION.fullmatch(file)
    if file.startswith("docs/"):
        target = file.removeprefix("docs/")
    elif file in ADDRESSES:
        target = ADDRESSES[file]
    elif option and option["group"] in group_pages():
        target = group_pages()[option["group"]]
        has_section = option["option"] and option["group"] not in LISTED
        anchor = f"#{option['option']}" if has_section else ""
    elif (ROOT / file).exists():
        text = link["text"]
        return text if file in text.replace("`", "") else f"{text} (`{file}`)"
    else:
        return link[0]
    relative = posixpath.relpath(target, posixpath.dirname(address) or ".")
    return f"{link['start']}({relative}{anchor})"
