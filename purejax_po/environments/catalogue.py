"""Ids of environments: the project's own, and those of other libraries."""

import difflib
import importlib.util

OWN = {
    "Chain-v0": "chain.Chain",
    "tokens/addition": "tokens.Addition",
    "tokens/brackets": "tokens.Brackets",
    "tokens/copy": "tokens.Copy",
    "tokens/length": "tokens.Length",
    "tokens/needle": "tokens.Needle",
    "tokens/parity": "tokens.Parity",
    "tokens/reverse": "tokens.Reverse",
    "tokens/sort": "tokens.Sort",
    "tokens/two": "tokens.TwoTokens",
}
"""The project's own environments by id: the module here and the class in it."""

ADAPTED = {
    "brax": (
        "ant",
        "halfcheetah",
        "hopper",
        "humanoid",
        "humanoidstandup",
        "inverted_double_pendulum",
        "inverted_pendulum",
        "pusher",
        "reacher",
        "swimmer",
        "walker2d",
    ),
    "craftax": ("Craftax-Classic-Symbolic-v1", "Craftax-Symbolic-v1"),
    "jumanji": (
        "BinPack-v2",
        "Game2048-v1",
        "GraphColoring-v1",
        "JobShop-v0",
        "Knapsack-v1",
        "Maze-v0",
        "Minesweeper-v0",
        "PacMan-v1",
        "RubiksCube-v0",
        "SlidingTilePuzzle-v0",
        "Snake-v1",
    ),
    "gymnasium": (
        "Acrobot-v1",
        "CartPole-v1",
        "HalfCheetah-v5",
        "Hopper-v5",
        "MountainCarContinuous-v0",
        "Pendulum-v1",
    ),
    "navix": (
        "Navix-DoorKey-8x8-v0",
        "Navix-Dynamic-Obstacles-8x8-v0",
        "Navix-Empty-8x8-v0",
        "Navix-FourRooms-v0",
        "Navix-KeyCorridorS3R1-v0",
        "Navix-LavaGapS7-v0",
        "Navix-SimpleCrossingS9N1-v0",
    ),
    "pgx": (
        "2048",
        "minatar-asterix",
        "minatar-breakout",
        "minatar-freeway",
        "minatar-seaquest",
        "minatar-space_invaders",
    ),
    "playground": (
        "AcrobotSwingup",
        "CartpoleBalance",
        "CartpoleSwingup",
        "CheetahRun",
        "HopperHop",
        "HumanoidWalk",
        "PendulumSwingup",
        "ReacherEasy",
        "WalkerWalk",
    ),
    "xminigrid": (
        "MiniGrid-DoorKey-5x5",
        "MiniGrid-DoorKey-8x8",
        "MiniGrid-Empty-8x8",
        "MiniGrid-EmptyRandom-8x8",
        "MiniGrid-FourRooms",
        "MiniGrid-MemoryS8",
        "MiniGrid-Unlock",
    ),
}
"""Other libraries' environments, `LIBRARY/NAME`, by the library: an extra of this package, and a
module here. Names that a library knows besides work too."""

IMPORTED_AS = {"playground": "mujoco_playground"}
"""Libraries whose module is named otherwise than the library."""


def library_of(name: object) -> str | None:
    """The library that an id such as `brax/hopper` names."""
    library, slash, task = str(name).partition("/")
    return library if library in ADAPTED and slash and task else None


def is_installed(library: str) -> bool:
    """Whether a library of environments can be imported."""
    return importlib.util.find_spec(IMPORTED_AS.get(library, library)) is not None


def check_task(library: str, task: str, known: tuple[str, ...]) -> None:
    """Raise `ValueError` naming the nearest match unless a library knows a task.

    The tasks themselves are not listed: some libraries have hundreds.
    """
    if task in known:
        return
    by_lower = {name.lower(): name for name in known}
    matches = difflib.get_close_matches(str(task).lower(), by_lower, n=1, cutoff=0.4)
    hint = f"; did you mean {library}/{by_lower[matches[0]]}?" if matches else ""
    raise ValueError(f"env must be a task that {library} knows, got {library}/{task}{hint}")
