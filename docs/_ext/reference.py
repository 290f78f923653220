"""The pages of the API reference: every public name of the package stands in one group.

    python docs/_ext/reference.py        # lists public names that no page has

`GROUPS` is kept by hand; `missing()` compares it with the package. A page is reStructuredText that
autodoc fills from docstrings; classes with fields show them as a table.
"""

import importlib
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

import fields

import purejax_po as po


class Group(NamedTuple):
    """A page: names of `purejax_po`, then modules whose public names it lists."""

    title: str
    intro: str
    names: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()


GROUPS: dict[str, Group] = {
    "running": Group(
        "Running experiments",
        "The host layer: a configuration goes in, labelled data comes out.",
        (
            *(
                "run",
                "resume",
                "compare",
                "resume_compare",
                "ExperimentConfig",
                "load_config",
                "Host",
            ),
            *("Observer", "Window", "StoppedError", "Interrupted"),
            *("tune", "resume_tune", "zoo_config", "use_compilation_cache", "compiler_options"),
        ),
    ),
    "configurations": Group(
        "Configurations",
        "What an algorithm's run can be told, as frozen dataclasses. Every float is traced.",
        (
            *("AlgorithmConfig", "REINFORCEConfig", "A2CConfig", "NPGConfig", "TRPOConfig"),
            *("PPOConfig", "GRPOConfig", "NetworkConfig"),
        ),
    ),
    "results": Group(
        "Results and pictures",
        "Labelled data of runs, statistics over seeds, pictures and reports.",
        (
            *(
                "load_results",
                "save_results",
                "load_runs",
                "summarize",
                "load_policy",
                "LoadedPolicy",
            ),
            *("export", "Exported", "evaluate_grid"),
            *("evaluate_run", "render", "report", "plot", "plot_curves", "plot_diagnostics"),
            *("plot_comparison", "plot_profile", "plot_improvement", "plot_aggregates"),
            *("plot_sweep", "plot_sensitivity", "plot_axes", "ranked_by"),
        ),
    ),
    "statistics": Group(
        "Statistics over seeds",
        "`po.statistics`.",
        ("statistics",),
        ("experiment.results.statistics",),
    ),
    "algorithms": Group(
        "Algorithms",
        "Factories of the engine, each with its options and hyperparameters.",
        (
            *("reinforce", "REINFORCEOptions", "REINFORCEHyperparams"),
            *("a2c", "A2COptions", "A2CHyperparams", "npg", "NPGOptions", "NPGHyperparams"),
            *("trpo", "TRPOOptions", "TRPOHyperparams", "ppo", "PPOOptions", "PPOHyperparams"),
            *("grpo", "GRPOOptions", "GRPOHyperparams"),
        ),
    ),
    "training": Group(
        "Training as a function",
        "One update, a whole run, and an evaluation, as pure functions.",
        (
            *("make_trainer", "make_train", "seed_keys", "Result", "Trainer", "TrainState"),
            *("evaluate", "Evaluation", "acting"),
        ),
    ),
    "types": Group(
        "Types",
        "What the parts hand to each other: NamedTuples and protocols, no classes to inherit from.",
        (
            *("Algorithm", "Policy", "Critic", "Actor", "ActorCriticParams", "Distribution"),
            *("Environment", "Transition", "Rollout", "Prompt"),
        ),
    ),
    "environments": Group(
        "Environments",
        "Making, registering, checking and wrapping environments.",
        (
            *("environments", "make_env", "register_env", "check_env", "from_legacy", "reset_from"),
            *("shape_reward", "judge_outcome", "with_action_mask", "randomized"),
        ),
        ("environments", "environments.wrappers", "spaces", "masks", "observations"),
    ),
    "networks": Group(
        "Networks and distributions",
        "Policies and critics of the package, and those made of functions of your own.",
        (
            *("networks", "sequence", "distributions", "mlp_actor_critic", "gru_actor_critic"),
            *("lstm_actor_critic", "recurrent_actor_critic", "transformer_policy", "gru_policy"),
            *(
                "softmax_linear_policy",
                "linear_critic",
                "policy_of",
                "critic_of",
                "shared_torso",
                "masked",
            ),
        ),
        ("networks", "sequence", "distributions"),
    ),
    "pretraining": Group(
        "Clones and reward models",
        "Starting from demonstrations, and learning a reward from preferences.",
        (
            *("behaviour_clone", "Clone", "warm_start", "reward_model", "RewardModel", "Pairs"),
            "preference_accuracy",
        ),
    ),
    "parts": Group(
        "Parts of algorithms",
        "Advantages, objectives, curvature, minibatches, rollouts, logs and running statistics.",
        (
            *("advantages", "surrogates", "curvature", "minibatch", "rollout", "metrics"),
            *("normalization", "checks"),
        ),
        (
            *("advantages", "surrogates", "curvature", "jacobian", "minibatch", "rollout"),
            *("metrics", "normalization", "checks"),
        ),
    ),
    "exact": Group(
        "Exact oracles and tests",
        "Finite MDPs whose values and gradients are known, and what every algorithm has to do.",
        (),
        ("exact", "testing"),
    ),
}


def missing() -> list[str]:
    """Return the public names that no page has, and names on a page that the package lacks."""
    listed = {name for group in GROUPS.values() for name in group.names}
    paths = {path for group in GROUPS.values() for path in group.modules}
    homes = {f"purejax_po.{path}" for path in paths}
    lost = [
        name
        for name in po.__all__
        if isinstance(found := getattr(po, name), ModuleType) and found.__name__ not in homes
    ]
    return sorted({*po.__all__} ^ listed) + lost


def public_names(module: ModuleType) -> list[str]:
    """Return the functions and classes of a module, in the order of its source."""
    named = getattr(module, "__all__", None)
    if named is None or module.__name__ == "purejax_po.environments":
        named = [
            name
            for name, found in vars(module).items()
            if not name.startswith("_")
            and (inspect.isfunction(found) or inspect.isclass(found))
            and found.__module__ == module.__name__
        ]
    return [name for name in named if callable(getattr(module, name))]


def write_pages(folder: Path) -> None:
    """Write the reference's pages; a page that is as it was keeps its time."""
    if wrong := missing():
        raise SystemExit(f"docs/_ext/reference.py: in no group, or unknown: {', '.join(wrong)}")
    folder.mkdir(exist_ok=True)
    pages = {f"{name}.rst": page(group) for name, group in GROUPS.items()}
    toc = "\n".join(f"   {name}" for name in GROUPS)
    pages["index.rst"] = (
        "API reference\n=============\n\nEvery public name, from its docstring. "
        "``import purejax_po as po`` is understood; arrays are JAX's, ``[T, N]`` are time and "
        f"environments.\n\n.. toctree::\n   :maxdepth: 1\n\n{toc}\n"
    )
    for name, text in pages.items():
        path = folder / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def page(group: Group) -> str:
    """Return one page."""
    parts = [f"{group.title}\n{'=' * len(group.title)}\n\n{group.intro}\n"]
    seen: set[int] = set()
    for name in group.names:
        found = getattr(po, name)
        if isinstance(found, ModuleType):
            continue
        seen.add(id(found))
        parts.append(entry("purejax_po", name, found))
    for path in group.modules:
        module = importlib.import_module(f"purejax_po.{path}")
        title = f"``{'po.statistics' if path.endswith('statistics') else f'purejax_po.{path}'}``"
        parts.append(f"{title}\n{'-' * len(title)}\n\n.. automodule:: {module.__name__}\n")
        elsewhere = {id(getattr(po, name)) for name in po.__all__}
        for name in public_names(module):
            found = getattr(module, name)
            if id(found) not in seen | elsewhere:
                seen.add(id(found))
                parts.append(entry(module.__name__, name, found))
    return "\n".join(parts)


def entry(module: str, name: str, found: Any) -> str:
    """Return the directive for one function or class."""
    if inspect.isfunction(found) or not inspect.isclass(found):
        return f".. autofunction:: {module}.{name}\n"
    listed = fields.of(found)
    is_protocol = getattr(found, "_is_protocol", False)  # whose constructor is typing's
    has_init = "__init__" in vars(found) and not listed and not is_protocol
    lines = [f".. autoclass:: {module}.{name}{'' if has_init or listed else '()'}"]
    if listed:
        lines = [f".. autoclass:: {module}.{name}()"]
    lines.append("")
    if listed:
        lines += [f"   .. fields:: {module}:{name}", ""]
    for method in methods(found):
        kind = "autoattribute" if isinstance(vars(found)[method], property) else "automethod"
        lines += [f"   .. {kind}:: {module}.{name}.{method}", ""]
    return "\n".join(lines) + "\n"


def methods(cls: type) -> list[str]:
    """Return the methods and properties that a class documents itself."""
    return [
        name
        for name, found in vars(cls).items()
        if not name.startswith("_")
        and name not in ("replace", "tree_flatten", "tree_unflatten", "factory")
        and (inspect.isfunction(found) or isinstance(found, property | classmethod | staticmethod))
        and inspect.getdoc(getattr(cls, name))
        and str(getattr(getattr(found, "fget", found), "__module__", cls.__module__)).startswith(
            "purejax_po"
        )
    ]


if __name__ == "__main__":
    print("\n".join(missing()) or "every public name is on a page")
