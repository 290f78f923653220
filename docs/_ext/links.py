"""Check every link inside the built site: files and anchors exist, nothing is loaded from afar.

python docs/_ext/links.py docs/_build/html
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The links of a page, its anchors, and what it loads."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep what a tag links to, loads or names."""
        found = {name: value or "" for name, value in attrs}
        self.anchors.update(found[name] for name in ("id", "name") if name in found)
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        elif tag in ("script", "img", "iframe") and found.get("src"):
            self.loaded.append(found["src"])
        elif tag == "link" and found.get("href") and found.get("rel") != "canonical":
            self.loaded.append(found["href"])


def main(root: Path) -> int:
    """Print what is broken; return the number of it, at most 1."""
    pages = {}
    for path in sorted(root.rglob("*.html")):
        pages[path.resolve()] = page = Page()
        page.feed(path.read_text())
    broken = []
    for path, page in pages.items():
        for link in [*page.links, *page.loaded]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if link in page.loaded and parts.scheme != "data":
                    broken.append(f"{path.relative_to(root.resolve())}: loads {link}")
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            other = pages.get(target)
            anchor = unquote(parts.fragment)
            if not target.exists() or (anchor and other and anchor not in other.anchors):
                broken.append(f"{path.relative_to(root.resolve())}: {link}")
    print("\n".join(broken) or f"{len(pages)} pages, all links inside them lead somewhere")
    return int(bool(broken))


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
