"""An episode of a policy as a picture that moves, or as a page where a library draws its own."""

import importlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from numpy.typing import ArrayLike

from purejax_po import contract
from purejax_po.checks import how_to_install
from purejax_po.environments.around import inner_state
from purejax_po.experiment import files as atomic
from purejax_po.experiment import layout
from purejax_po.experiment.policies import load_policy
from purejax_po.experiment.run.trainer import true_env
from purejax_po.types import Action, Carry, EnvState, Info, Trainer

HEADLESS = {
    "SDL_VIDEODRIVER": "dummy",
    "SDL_AUDIODRIVER": "dummy",
    "PYGAME_HIDE_SUPPORT_PROMPT": "1",
}
"""gymnasium draws classic-control environments with pygame: no window, sound or greeting."""


MOST_FRAMES = 100_000
"""Of an episode."""


def render(
    out: str | os.PathLike[str],
    path: str | os.PathLike[str] | None = None,
    *,
    seed: int,
    point: Mapping[str, float] | None = None,
    best: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Path, int]:
    """Draw one greedy episode of a seed's final policy.

    Args:
        out: the directory of a run.
        path: the file to write (default: `OUT/seed-SEED.gif`, with the point): an animated GIF, or
            where a library draws its own environments, as Brax, a page `.html`. An environment of
            yours is drawn by its method `picture(state, env_params)`, which returns bytes
            `[height, width, 3]`.
        seed: the seed's value.
        point, best: as `load_policy`.

    Returns:
        The file, and the number of frames.

    Raises:
        ValueError: as `load_policy`; or if nothing can draw the environment.
    """
    atomic.check_path("out", out)
    if path is not None:
        atomic.check_path("path", path)
    if path is not None and not Path(path).absolute().parent.is_dir():
        raise ValueError(f"path must be in a directory that exists, got {path}")
    act = load_policy(out, seed=seed, point=point, best=best)
    env, env_params = true_env(act.config, act.trainer)
    trainer = act.trainer._replace(env=env, env_params=env_params)
    draw_page = getattr(trainer.env, "draw", None)
    suffix = ".gif" if draw_page is None else ".html"
    path = Path(path or Path(out) / f"{layout.of_seed(seed, point, best)}{suffix}")
    if path.suffix.lower() != suffix:
        raise ValueError(
            f"path must end in {suffix} for {contract.name_of(trainer.env)}, got {path}"
        )
    picture = getattr(trainer.env, "picture", None)
    if draw_page is None and picture is None:
        _gif_visualizer()  # what lacks is told before an episode is played
    states, returns, infos = _play(trainer, act, seed)
    if draw_page is not None:
        path.write_text(draw_page(infos))
    elif picture is not None:
        _write((picture(state, env_params) for state in states), path)
    else:
        try:
            drawn = _gif_visualizer()(trainer.env, trainer.env_params, states, returns)
            _write(_frames(drawn, progress), path, drawn.interval)
        except (AttributeError, KeyError, TypeError):
            raise ValueError(
                f"env {contract.name_of(trainer.env)} cannot be drawn: gymnax has no picture of "
                "it, and it has no method picture(state, env_params)"
            ) from None
    return path, len(states)


def _write(frames: Iterable[ArrayLike], path: Path, duration: int = 100) -> None:
    """Write images `[height, width, 3]` as a GIF."""
    from PIL import Image

    images = [Image.fromarray(np.asarray(frame, np.uint8)).quantize(64) for frame in frames]
    images[0].save(path, save_all=True, append_images=images[1:], duration=duration, loop=0)


def _frames(visualizer: Any, progress: Callable[[int, int], None]) -> Iterator[np.ndarray]:
    """Draw every state once."""
    from matplotlib import pyplot
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    try:
        canvas = FigureCanvasAgg(visualizer.fig)
        visualizer.init()
        if not hasattr(visualizer, "im"):
            raise AttributeError("an environment that gymnax does not know")
        total = len(visualizer.state_seq)
        for i in range(total):
            visualizer.update(i)
            canvas.draw()
            yield np.asarray(canvas.buffer_rgba())[..., :3]
            progress(i + 1, total)
    finally:
        pyplot.close(visualizer.fig)


def _gif_visualizer() -> Any:
    """Gymnax's class that draws GIFs."""
    for name, value in HEADLESS.items():
        os.environ.setdefault(name, value)
    try:
        importlib.import_module("pygame")
        from gymnax.visualize import Visualizer
    except ImportError:
        raise ValueError(
            f"rendering needs pygame, which is not installed: {how_to_install('render')}"
        ) from None
    return Visualizer


def _play(
    trainer: Trainer, act: Callable[..., tuple[Action, Carry]], seed: int
) -> tuple[list[EnvState], np.ndarray, list[Info]]:
    """Play one episode: states acted on, returns so far, and what the steps said besides."""
    env, env_params = trainer.env, trainer.env_params
    memoryless, memory = trainer.actor.memoryless, None
    step = jax.jit(env.step)
    reset_key, key = jax.random.split(jax.random.key(seed))
    obs, state = env.reset(reset_key, env_params)
    states, rewards, infos = [], [], []
    while len(states) < MOST_FRAMES:
        states.append(inner_state(state))
        key, step_key = jax.random.split(key)
        action, memory = (act(obs), None) if memoryless else act(obs, memory)
        obs, state, reward, terminated, truncated, info = step(step_key, state, action, env_params)
        rewards.append(float(reward))
        infos.append(info)
        if terminated or truncated:
            return states, np.cumsum(rewards), infos
    name = contract.name_of(trainer.env)
    raise ValueError(f"env {name} cannot be drawn: its episode goes on after {MOST_FRAMES:,} steps")
