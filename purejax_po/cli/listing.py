"""The command `envs`: one line for each environment, in 80 columns, ids never cut."""

import json
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from purejax_po import environments, spaces
from purejax_po.cli import output
from purejax_po.types import Space

WIDTH = 80
EXTRAS = (
    'An extra brings a library: pip install "purejax-po[{0}]",',
    'in a checkout pip install -e ".[{0}]".',
    "The libraries know more ids than are listed.",
)


class Listed(NamedTuple):
    """A line of the list."""

    id: str
    observation: str
    """The shape, e.g. `4` or `10×10×4`."""
    actions: str
    time_limit: int | None
    """Steps; None without one."""
    note: str
    """For an environment of another library, or one that cannot be made: what it needs."""


@dataclass(frozen=True)
class Envs:
    """List the environments: id, observation, actions, time limit (steps)."""

    json: bool = False
    """Print JSON: a list of objects."""

    def execute(self) -> int:
        """Print a line for each environment."""
        found = [describe(name) for name in environments.names()]
        if self.json:
            print(json.dumps([each._asdict() for each in found], indent=2, ensure_ascii=False))
            return 0
        for line in lines(found):
            print(output.plain(line))
        return 0


def lines(found: list[Listed]) -> list[str]:
    """Return the list as lines: a header, the environments, and how to get an extra."""
    width = max(len("environment"), *(len(each.id) for each in found))
    header = f"{'environment':{width}}  {'observation':11}  {'actions':17} {'limit':>6}"
    rows = [header]
    needed: list[str] = []
    for each in found:
        if each.note:
            room = WIDTH - width - 2
            note = each.note if len(each.note) <= room else each.note.partition(":")[0][:room]
            rows.append(f"{each.id:{width}}  {note}")
            library = environments.library_of(each.id)
            if library and not environments.is_installed(library):
                needed.append(library)
            continue
        limit = "none" if each.time_limit is None else f"{each.time_limit}"
        rows.append(f"{each.id:{width}}  {each.observation:11}  {each.actions:17} {limit:>6}")
    if needed:
        rows += ["", *(text.format(needed[0]) for text in EXTRAS)]
    return rows


def describe(name: str) -> Listed:
    """Return what is listed of an environment; one of another library is not made (seconds)."""
    if library := environments.library_of(name):
        installed = environments.is_installed(library)
        return Listed(name, "", "", None, "installed" if installed else f"needs extra {library}")
    try:
        env, env_params = environments.make(name)
        observation = shape_of(env.observation_space(env_params))
        actions = actions_of(env.action_space(env_params))
    except ValueError as error:
        return Listed(name, "", "", None, str(error).removeprefix(f"env {name} "))
    limit = getattr(env_params, "max_steps_in_episode", math.inf)
    return Listed(name, observation, actions, int(limit) if math.isfinite(limit) else None, "")


def shape_of(space: Space) -> str:
    """Say the shape of an observation: `4`, `10×10×4`; the kind of one that has none."""
    if spaces.kind(space) in ("tuple", "dictionary"):
        return spaces.kind(space)
    return "×".join(map(str, getattr(space, "shape", ()))) or "1"


def actions_of(space: Space) -> str:
    """Say what an action is: `2 actions`, `3×3×2 choices`, `1 in [-2, 2]`."""
    kind = spaces.kind(space)
    if kind == "discrete":
        return f"{int(space.n)} actions"
    if kind == "multi_discrete" and (found := spaces.choices(space)):
        sizes = "×".join(map(str, found.sizes))
        return f"{sizes} choices" if len(sizes) < 10 else f"{len(found.sizes)} choices"
    if kind != "box":
        return kind
    low, high = np.min(space.low), np.max(space.high)
    bounds = f" in [{low:g}, {high:g}]" if spaces.is_bounded(space) else ""
    return f"{shape_of(space)}{bounds}"
