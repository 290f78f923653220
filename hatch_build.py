"""What an index page needs beside pyproject.toml: the project's address, and links that are whole.

The address is that of the clone that is built (`git remote get-url origin`), or of the variable
`PUREJAX_PO_REPOSITORY`. Without one there are no `urls`, and links stay relative. A wheel that is
built from a source distribution takes both from its PKG-INFO.
"""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

VARIABLE = "PUREJAX_PO_REPOSITORY"
LINK = re.compile(r"(!?)(\[[^\]]*\])\((?![a-z]+:|#)([^)\s]+)\)")
"""A picture's mark, the words and the target of a relative link."""


class CustomMetadataHook(MetadataHookInterface):
    """Fills `readme` and `urls`."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the fields that are dynamic."""
        address = web_address(os.environ.get(VARIABLE) or remote(self.root))
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        if address and "urls" not in metadata:  # else PKG-INFO has them
            metadata["urls"] = urls(address)
            text = with_whole_links(text, address)
        elif "readme" in metadata:
            return
        metadata["readme"] = {"content-type": "text/markdown", "text": text}


def remote(root: str) -> str:
    """Return where a clone comes from, or nothing; a folder inside another's clone has none."""
    if not (Path(root) / ".git").exists():
        return ""
    command = ["git", "-C", root, "remote", "get-url", "origin"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:  # no git
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def web_address(remote: str) -> str:
    """Return the page of a remote, https://HOST/PATH without names, passwords and `.git`.

    Of ssh, scp's short form and https; a path on this machine has no page.
    """
    found = re.fullmatch(r"(?:(https?|ssh)://)?(?:[^@/]*@)?([\w.-]+)(:\d+)?([:/])(.+)", remote)
    if not found:
        return ""
    scheme, host, port, between, path = found.groups()
    if not scheme and (between != ":" or "." not in host):
        return ""
    port = port if port and scheme in ("http", "https") else ""
    return f"https://{host}{port}/{path.strip('/').removesuffix('.git')}"


def urls(address: str) -> dict[str, str]:
    """Return the links of the index page."""
    return {
        "Source": address,
        "Documentation": f"{address}/blob/HEAD/docs/index.md",
        "Changelog": f"{address}/blob/HEAD/CHANGELOG.md",
        "Issues": f"{address}/issues",
    }


def with_whole_links(text: str, address: str) -> str:
    """Write relative links in full: pictures as files, folders and pages as one sees them."""

    def whole(found: re.Match[str]) -> str:
        mark, words, target = found.groups()
        return f"{mark}{words}({address}/{'raw' if mark else 'blob'}/HEAD/{target})"

    return LINK.sub(whole, text)
