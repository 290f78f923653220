"""What the zoo's searches try on each environment: steps, ranges of floats, shapes of programs."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import purejax_po as po


class Log(NamedTuple):
    """Floats whose logarithm is uniform."""

    low: float
    high: float


class Uniform(NamedTuple):
    """Floats that are uniform."""

    low: float
    high: float


Floats = Mapping[str, Log | Uniform | Sequence[float]]
Shapes = Mapping[str, Sequence[Mapping[str, Any]]]

ACTOR_CRITIC: Floats = {
    "learning_rate_decay": (0.0, 1.0),
    "discount": (0.97, 0.98, 0.99, 0.995),
    "gae_lambda": Uniform(0.8, 0.98),
    "entropy_coef": (0.0, 0.001, 0.01),
}
NATURAL: Floats = {
    "max_kl": Log(0.005, 0.1),
    "discount": (0.97, 0.98, 0.99, 0.995),
    "gae_lambda": Uniform(0.8, 0.98),
    "critic_learning_rate": Log(1e-3, 1e-2),
}
FLOATS: dict[str, Floats] = {
    "ppo": {"learning_rate": Log(3e-4, 5e-3), "clip_eps": Uniform(0.1, 0.3), **ACTOR_CRITIC},
    "a2c": {"learning_rate": Log(5e-4, 4e-3), **ACTOR_CRITIC},
    "reinforce": {
        "learning_rate": Log(1e-3, 2e-2),
        "critic_learning_rate": Log(1e-3, 2e-2),
        "discount": (0.97, 0.98, 0.99, 0.995),
    },
    "npg": NATURAL,
    "trpo": NATURAL,
}
SHAPES: Shapes = {
    "ppo": [
        {"num_envs": 8, "num_steps": 32, "num_epochs": 10, "num_minibatches": 4},
        {"num_envs": 8, "num_steps": 128, "num_epochs": 10, "num_minibatches": 8},
    ],
    "a2c": [{"num_envs": 8, "num_steps": 8}, {"num_envs": 8, "num_steps": 32}],
    "reinforce": [
        {"num_envs": 2, "num_steps": 500},
        {"num_envs": 4, "num_steps": 500, "normalize_advantage": True},
    ],
    "npg": [{}, {"num_envs": 8, "num_steps": 64, "critic_minibatch_size": 64}],
    "trpo": [{}, {"num_envs": 8, "num_steps": 64, "critic_minibatch_size": 64}],
}
"""What shapes a program: each is one."""
QUICK = ("a2c", "reinforce")
"""One step of gradient ascent per rollout: so quick that twice as many settings are tried."""


class Task(NamedTuple):
    """How an environment is searched."""

    total_steps: int
    """Environment steps per seed."""
    enough: float = float("inf")
    """Once as many candidates as there are finalists reach it, no further shape is tried."""
    settings: Mapping[str, Any] = {}
    """Fields of the experiment: normalisation, wrappers."""
    floats: Floats = {}  # noqa: RUF012 - never changed
    """Ranges in place of an algorithm's own, of the floats that it has."""
    shapes: Shapes = {}  # noqa: RUF012 - never changed
    """In place of an algorithm's own."""
    candidates: int = 8
    """Of each shape; the first one has the default floats, but for those of `floats`."""
    finalists: int = 3
    final_seeds: int = 8
    """Of each finalist."""
    search_steps: int | None = None
    """Of candidates, if fewer than `total_steps`."""
    final_steps: int | None = None
    """Of finalists, if more than those of candidates."""
    lanes: int | None = None
    """Fresh seeds side by side on a core; None: as many as usual."""
    algorithms: Sequence[str] = tuple(FLOATS)
    """The environment's cells."""


NORMALIZED = {"normalize_observations": True, "normalize_rewards": True}


def episodes(num_envs: int, length: int) -> list[dict[str, Any]]:
    """REINFORCE's shapes where an episode has at most `length` steps: one of each environment."""
    shape = {"num_envs": num_envs, "num_steps": length, "critic_minibatch_size": 2 * length}
    return [{**shape, "normalize_advantage": True}, shape]


RELU = {"network": po.NetworkConfig(activation="relu")}
WIDE = {"network": po.NetworkConfig(hidden=(128, 128), activation="relu")}
FRAMES: Mapping[str, Any] = {
    **{"num_envs": 64, "num_steps": 128},
    **{"num_epochs": 4, "num_minibatches": 8},
}
"""PPO's shape on MinAtar."""
MINATAR_FLOATS: Floats = {"learning_rate": Log(5e-4, 5e-3), "learning_rate_decay": (1.0,)}
MINATAR = Task(
    10_000_000,
    floats=MINATAR_FLOATS,
    shapes={"ppo": [FRAMES, {**FRAMES, **RELU}], "a2c": [{"num_envs": 64, "num_steps": 8}]},
    candidates=5,
    finalists=2,
    final_seeds=4,
    search_steps=1_000_000,
    lanes=4,
    algorithms=("ppo", "a2c"),
)
"""Searched at a tenth of the steps."""

MISC: Shapes = {
    "ppo": [{"num_envs": 8, "num_steps": 128, "num_epochs": 10, "num_minibatches": 8}],
    "a2c": [{"num_envs": 8, "num_steps": 16}],
    "npg": [{}],
    "trpo": [{}],
    "reinforce": episodes(8, 100)[:1],
}

BRAX = Task(
    500_000,
    settings=NORMALIZED,
    floats={
        "learning_rate": Log(3e-4, 1.5e-3),
        "learning_rate_decay": (1.0,),
        "discount": (0.97, 0.99),
        "gae_lambda": Uniform(0.9, 0.98),
        "entropy_coef": (0.0, 0.001),
        "max_kl": Log(0.005, 0.05),
    },
    shapes={
        "ppo": [{"num_envs": 16, "num_steps": 128, "num_epochs": 10, "num_minibatches": 32}],
        "trpo": [{"num_envs": 16, "num_steps": 128, "critic_minibatch_size": 256}],
    },
    candidates=4,
    finalists=2,
    final_seeds=4,
    algorithms=("ppo", "trpo"),
)

BATCHES: Sequence[Mapping[str, Any]] = [
    {},
    {"num_envs": 8, "num_steps": 64, "critic_minibatch_size": 64},
    {"num_envs": 16, "num_steps": 128, "critic_minibatch_size": 64},
]
"""Shapes of the natural gradients' programs: batches of 1,024, 512 and 2,048."""

SHORT: Mapping[str, Any] = {"candidates": 4, "finalists": 2, "final_seeds": 4}

TASKS: dict[str, Task] = {
    "CartPole-v1": Task(
        100_000,
        enough=499.5,
        shapes={
            "a2c": [
                {"num_envs": 8, "num_steps": 8, "normalize_advantage": False},
                {"num_envs": 8, "num_steps": 16, "normalize_advantage": False},
                {"num_envs": 16, "num_steps": 8, "normalize_advantage": False},
            ]
        },
        candidates=16,
        finalists=6,
        final_seeds=16,
    ),
    "Acrobot-v1": Task(
        200_000,
        enough=-83.0,
        shapes={"a2c": [{"num_envs": 8, "num_steps": 32}, {"num_envs": 8, "num_steps": 16}]},
        candidates=6,
    ),
    "Pendulum-v1": Task(
        1_000_000,
        enough=-150.0,
        settings=NORMALIZED,
        floats={
            "learning_rate": Log(3e-4, 1.5e-3),
            "learning_rate_decay": (1.0,),
            "discount": (0.9, 0.95),
            "gae_lambda": Uniform(0.9, 0.98),
            "entropy_coef": (0.0,),
            "max_kl": Log(0.005, 0.05),
        },
        shapes={
            "ppo": [
                {
                    "num_envs": 16,
                    "num_steps": 128,
                    "num_epochs": 10,
                    "num_minibatches": 32,
                    "clip_value": False,
                }
            ],
            "a2c": [
                {"num_envs": num_envs, "num_steps": num_steps, "normalize_advantage": is_normalized}
                for num_envs, num_steps in ((8, 8), (8, 32), (32, 8))
                for is_normalized in (True, False)
            ],
            "npg": BATCHES,
            "trpo": BATCHES,
            "reinforce": episodes(4, 200),
        },
        candidates=4,
        finalists=2,
    ),
    "Catch-bsuite": Task(100_000, enough=0.999, shapes={"reinforce": episodes(32, 9)}),
    "MountainCar-v0": Task(
        200_000,
        enough=-108.0,
        settings={**NORMALIZED, "wrappers": ("action_repeat:8",)},
        floats={"gae_lambda": Uniform(0.9, 0.98), "discount": (0.97, 0.99, 0.999)},
        shapes={"reinforce": episodes(16, 25)},
        **SHORT,
    ),
    "MountainCarContinuous-v0": Task(
        100_000,
        enough=92.0,
        settings={**NORMALIZED, "wrappers": ("action_repeat:8",)},
        floats={
            "gae_lambda": Uniform(0.9, 0.98),
            "discount": (0.99, 0.999),
            "entropy_coef": (0.0,),
        },
        shapes={"reinforce": episodes(8, 125)},
        candidates=5,
        finalists=2,
    ),
    "DeepSea-bsuite": Task(
        200_000,
        enough=0.989,
        floats={"entropy_coef": (0.003, 0.01, 0.03)},
        shapes={
            "ppo": [
                {
                    "num_envs": num_envs,
                    "num_steps": 8,
                    "num_minibatches": 4,
                    "normalize_advantage": "off",
                }
                for num_envs in (32, 128)
            ],
            "a2c": [
                {"num_envs": num_envs, "num_steps": 8, "normalize_advantage": False}
                for num_envs in (8, 32)
            ],
            "npg": [{"num_envs": 128, "num_steps": 32}, {}],
            "trpo": [{"num_envs": 128, "num_steps": 32}, {}],
            "reinforce": [
                {"num_envs": num_envs, "num_steps": 8, "critic_minibatch_size": 64}
                for num_envs in (32, 128)
            ],
        },
        candidates=6,
    ),
    "FourRooms-misc": Task(
        100_000, enough=0.999, settings={"normalize_observations": True}, **SHORT
    ),
    "PointRobot-misc": Task(200_000, shapes=MISC, **SHORT),
    "Reacher-misc": Task(200_000, settings=NORMALIZED, shapes=MISC, **SHORT),
    "brax/hopper:spring": BRAX,
    "brax/inverted_pendulum:spring": BRAX._replace(enough=999.0),
    "brax/reacher:spring": BRAX,
    "Breakout-MinAtar": MINATAR._replace(enough=15.0),
    "SpaceInvaders-MinAtar": MINATAR._replace(enough=90.0),
    "Asterix-MinAtar": MINATAR._replace(
        floats={**MINATAR_FLOATS, "discount": (0.99, 0.995, 0.999)},
        shapes={**MINATAR.shapes, "ppo": [FRAMES, {**FRAMES, **WIDE}]},
        finalists=4,
        final_seeds=3,
        final_steps=3_000_000,
    ),
    "Freeway-MinAtar": MINATAR._replace(
        floats={**MINATAR_FLOATS, "discount": (0.99, 0.995, 0.999)},
        shapes={**MINATAR.shapes, "ppo": [{**FRAMES, **WIDE}]},
        candidates=3,
        finalists=1,
    ),
}
"""By environment. Independent noise rarely climbs the hill of either car: actions are held."""


def shapes_of(algorithm: str, env: str) -> Sequence[Mapping[str, Any]]:
    """What shapes the programs of a cell's search, with the fast permutations."""
    shuffle = {} if algorithm == "a2c" else {"shuffle": "fast"}
    return [{**shape, **shuffle} for shape in TASKS[env].shapes.get(algorithm, SHAPES[algorithm])]


def is_quick(algorithm: str, env: str) -> bool:
    """Whether a seed costs seconds."""
    return algorithm in QUICK and TASKS[env].total_steps <= 1_000_000


def times(algorithm: str, env: str) -> int:
    """Factor of the numbers of candidates and of finalists."""
    return 2 if is_quick(algorithm, env) else 1


def num_fresh(algorithm: str, env: str) -> int:
    """Number of fresh seeds of a cell: more where they cost seconds, few where they cost hours."""
    if (algorithm, env) in LONG:
        return 4
    if (algorithm, env) == ("ppo", "CartPole-v1"):
        return 32
    return 64 if is_quick(algorithm, env) else 16


LONG = tuple(("ppo", f"{game}-MinAtar") for game in ("SpaceInvaders", "Freeway", "Asterix"))
"""Cells whose sixteen seeds take over an hour of a core."""

SEEN: Mapping[tuple[str, str], int] = {
    **{(algorithm, "Pendulum-v1"): 16 for algorithm in ("ppo", "trpo", "a2c")},
    ("a2c", "CartPole-v1"): 336,
    ("a2c", "Acrobot-v1"): 64,
    ("ppo", "brax/inverted_pendulum:spring"): 16,
    ("ppo", "Asterix-MinAtar"): 32,
}
"""Fresh seeds that were looked at before a cell was searched again: others are reported."""


OWN: Mapping[tuple[str, str], Floats] = {
    ("a2c", "CartPole-v1"): {
        "learning_rate": Log(2e-3, 6e-3),
        "learning_rate_decay": (0.0, 0.3, 0.6, 1.0),
        "discount": (0.97, 0.98, 0.985),
        "gae_lambda": Uniform(0.8, 0.9),
        "entropy_coef": (0.0, 0.001),
        "value_coef": (0.5, 1.0, 2.0),
        "max_grad_norm": (0.5, 1.0),
        "adam_eps": Log(5e-4, 5e-3),
    },
    ("a2c", "Acrobot-v1"): {
        "learning_rate": Log(3e-3, 9e-3),
        "learning_rate_decay": (0.6, 1.0),
        "discount": (0.97, 0.98),
        "gae_lambda": Uniform(0.85, 0.97),
        "entropy_coef": (0.0, 0.001),
        "value_coef": (0.5, 1.0),
        "max_grad_norm": (0.5, 1.0),
        "adam_eps": Log(2e-5, 1e-3),
    },
}
"""A cell's own ranges. A large ε of Adam keeps A2C from collapsing late."""


def floats_of(algorithm: str, env: str) -> Floats:
    """Ranges of a cell's search."""
    own = TASKS[env].floats
    ranges = {name: own.get(name, values) for name, values in FLOATS[algorithm].items()}
    return {**ranges, **OWN.get((algorithm, env), {})}


MANY_FINAL: Mapping[tuple[str, str], int] = {("a2c", "CartPole-v1"): 64, ("a2c", "Acrobot-v1"): 32}
"""Seeds of finalists that only a few bad seeds tell apart."""


def num_final(algorithm: str, env: str) -> int:
    """Number of seeds of a cell's finalists."""
    return MANY_FINAL.get((algorithm, env), TASKS[env].final_seeds)


class Reference(NamedTuple):
    """What a public zoo reports."""

    algorithm: str
    env: str
    mean: float
    """Of the deterministic policy of one run, over episodes."""
    total_steps: int


REFERENCES = (
    Reference("a2c", "CartPole-v1", 500.0, 500_000),
    Reference("trpo", "CartPole-v1", 500.0, 100_000),
    Reference("ppo", "CartPole-v1", 500.0, 100_000),
    Reference("a2c", "Acrobot-v1", -83.353, 500_000),
    Reference("trpo", "Acrobot-v1", -83.114, 100_000),
    Reference("ppo", "Acrobot-v1", -73.506, 1_000_000),
    Reference("a2c", "Pendulum-v1", -162.965, 1_000_000),
    Reference("trpo", "Pendulum-v1", -174.631, 100_000),
    Reference("ppo", "Pendulum-v1", -172.225, 100_000),
    Reference("a2c", "MountainCar-v0", -111.263, 1_000_000),
    Reference("trpo", "MountainCar-v0", -107.278, 100_000),
    Reference("ppo", "MountainCar-v0", -110.423, 1_000_000),
    Reference("a2c", "MountainCarContinuous-v0", 91.166, 100_000),
    Reference("trpo", "MountainCarContinuous-v0", 92.489, 50_000),
    Reference("ppo", "MountainCarContinuous-v0", 88.343, 20_000),
    Reference("ppo", "Breakout-MinAtar", 28.0, 10_000_000),
    Reference("ppo", "SpaceInvaders-MinAtar", 131.0, 10_000_000),
    Reference("ppo", "Asterix-MinAtar", 15.9, 10_000_000),
    Reference("ppo", "Freeway-MinAtar", 58.0, 10_000_000),
)
"""Sources: github.com/DLR-RM/rl-baselines3-zoo, benchmark.md at commit 0088472; of MinAtar the PPO
of github.com/RobertTLange/gymnax-blines.
"""
