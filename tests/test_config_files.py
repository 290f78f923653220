"""Configuration files: the flags as TOML, under the flags; for train, sweep, compare."""

import brought
import pytest
import tiny

import purejax_po as po
from purejax_po import cli
from purejax_po.cli import entry
from purejax_po.experiment import compare
from purejax_po.experiment.config import file

pytestmark = pytest.mark.usefixtures("compile_quickly", "no_pictures")

WHOLE = """
algorithm = "a2c"
env = "Acrobot-v1"
seeds = 3
total-steps = 1e4
normalize_observations = true
num_envs = 4
num_devices = 2
out = "there"

[hyperparams]
learning_rate = 1

[network]
hidden = [8]

[env_params]
link_length_1 = 2
"""


@pytest.fixture
def write(tmp_path):
    def write(text, name="mine.toml"):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


def test_flags_win_over_a_file_and_a_file_over_defaults(write):
    path = write(WHOLE)
    command = entry.parse(["train", "--config", path, "--num-envs", "2", "--seeds", "5"])
    config = command.config()
    assert (config.env, config.total_steps, config.num_seeds) == ("Acrobot-v1", 10_000, 5)
    assert config.algorithm == po.A2CConfig(
        num_envs=2,
        hyperparams=po.A2CHyperparams(learning_rate=1),
        network=po.NetworkConfig(hidden=(8,)),
    )
    assert config.normalize_observations
    assert config.env_params == {"link_length_1": 2}
    assert (str(command.out), command.host.num_devices) == ("there", 2)
    assert entry.parse(["train", "a2c", f"--config={path}"]).config().num_seeds == 3
    assert (
        not entry.parse(["train", "--config", path, "--no-normalize-observations"])
        .config()
        .normalize_observations
    )


def test_a_written_file_is_read_as_it_was(write, tmp_path):
    config = tiny.experiment(
        "trpo", env_params={"gravity": 9.0}, sweep={"max_kl": (0.01, 0.02)}, lanes_per_device=None
    )
    path = write(file.write_toml(file.as_settings(config), ["what it is"]))
    assert po.load_config(path) == config
    assert entry.parse(["sweep", "--config", path]).config() == config
    out = tmp_path / "run"
    po.run(tiny.experiment(num_seeds=1), out, progress=False)
    assert po.load_config(out / "config.json") == tiny.experiment(num_seeds=1)


def test_classes_of_ones_own_stand_in_a_file(write):
    network, hyperparams = brought.Network(hidden=(16,)), brought.Hyperparams(power=2.0)
    config = po.ExperimentConfig(algorithm=po.PPOConfig(network=network, hyperparams=hyperparams))
    assert po.load_config(write(file.write_toml(file.as_settings(config)))) == config
    with pytest.raises(ValueError, match=r"network\.class in .* must be a dataclass, as module:C"):
        po.load_config(write("[network]\nclass = 3\n"))


def test_lists_are_read_as_their_fields_hold_them(write):
    path = write('wrappers = "time_limit:9"\n[network]\nhidden = "32x16"\nchannels = [4.0]\n')
    config = entry.parse(["train", "--config", path]).config()
    assert config.wrappers == ("time_limit:9",)
    assert (config.algorithm.network.hidden, config.algorithm.network.channels) == ((32, 16), (4,))
    assert type(config.algorithm.network.channels[0]) is int


def test_a_preset_is_what_a_file_starts_from_and_hides_nothing(write, capsys):
    path = write('algorithm = "ppo"\npreset = "ppo-pendulum"\nnum_epochs = 3\n')
    for flags in ([], ["--preset", "ppo-pendulum"]):
        command = entry.parse(["train", "--config", path, *flags])
        assert (command.preset, command.experiment.env) == ("ppo-pendulum", "Pendulum-v1")
        assert (command.algorithm.num_epochs, command.algorithm.num_steps) == (3, 256)
    path = write("seeds = 3\nenv = 'Acrobot-v1'\n")
    command = entry.parse(["train", "--config", path, "--preset", "zoo"])
    assert command.algorithm == po.zoo_config("ppo", "Acrobot-v1").algorithm
    assert command.experiment.num_seeds == 3
    path = write(file.write_toml(file.as_settings(po.zoo_config("ppo", "Acrobot-v1"))))
    for preset in ("zoo", "ppo-pendulum"):
        assert cli.main(["train", "--config", path, "--preset", preset]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"preset must be left out with {path}, which gives settings itself (" in line
        assert line.endswith(f"…), got '{preset}'")


def test_axes_of_a_sweep_add_to_those_of_its_file(write):
    path = write('algorithm = "ppo"\n[set]\ndiscount = [0.9, 0.99]\nclip_eps = [0.1]\n')
    command = entry.parse(["sweep", "--config", path, "--set", "clip_eps=0.2,0.3"])
    assert command.config().sweep == {"discount": (0.9, 0.99), "clip_eps": (0.2, 0.3)}


def test_a_comparison_takes_files_presets_and_names(write):
    tuned = write('algorithm = "trpo"\nnormalize_observations = true\nnum_envs = 2', "tuned.toml")
    path = write(
        f'algorithms = ["trpo={tuned}", "{tuned}:num_envs=4", "ppo=ppo-pendulum", "a2c"]\n'
        'env = "Pendulum-v1"\nseeds = 2\ntotal_steps = 8192\n'
    )
    command = entry.parse(["compare", "--config", path, "--seeds", "3"])
    assert (command.env, command.num_seeds, command.total_steps) == (("Pendulum-v1",), 3, 8192)
    found = compare.prepare(command.algorithms, command.env, total_steps=8192).experiments
    configs = {label: study.config for (label, _), study in found.items()}
    assert list(configs) == ["trpo", "tuned", "ppo=ppo-pendulum", "a2c"]
    assert [c.algorithm.num_envs for c in configs.values()] == [2, 4, 8, 8]
    assert [c.normalize_observations for c in configs.values()] == [True, True, False, False]


MISTAKES = {
    "unknown": ("envv = 'x'", [], "must have keys that are flags, got 'envv'; did you mean env?"),
    "hyperparameter": ("clip_eps = 0.1", [], "clip_eps at its top: it belongs into the table [hyp"),
    "unknown in a table": (
        "[hyperparams]\nlearning_rte = 0.1",
        [],
        "a key of hyperparams in {path} must be one of learning_rate, ",
    ),
    "no table": ("hyperparams = 3", [], "hyperparams in {path} must be a table, got 3"),
    "kind": ("num_envs = 'a'", [], "num_envs in {path} must be a whole number, got 'a'"),
    "value": ("num_envs = 0", [], "num_envs must be a whole number ≥ 1, got 0"),
    "no TOML": ("env = ", [], "config must be a TOML file, got {path}: "),
    "widths": (
        "[network]\nhidden = 'wide'",
        [],
        "network.hidden in {path} must be whole numbers such as [64, 64], got 'wide'",
    ),
    "no widths": (
        "[network]\nhidden = [64.5]",
        [],
        "must be whole numbers such as [64, 64], got [",
    ),
    "texts": (
        "[network]\npolicy_fields = [1]",
        [],
        "policy_fields in {path} must be a list of tex",
    ),
    "names": ("wrappers = [1]", [], "wrappers in {path} must be a list of texts, got [1]"),
    "cluster": ("cluster = 3", [], "cluster must be HOST:PORT or auto, got 3"),
    "digits": (
        f"[hyperparams]\nlearning_rate = 1{'0' * 400}",
        [],
        "hyperparams.learning_rate in {path} must be of at most 64 bits, got a longer whole numb",
    ),
    "too many digits": (
        f"total_steps = 1{'0' * 5000}",
        [],
        "config must be a TOML file, got {path}",
    ),
    "twice": ("seeds = 1\nnum_seeds = 2", [], "must give each key once, got num_seeds twice"),
    "another algorithm": ("algorithm = 'a2c'", ["ppo"], "algorithm must be that of {path}, a2c, "),
    "no algorithm": ("algorithm = 'a3c'", [], "got 'a3c'; did you mean a2c?"),
    "a sweep": ("[set]\nclip_eps = [0.1]", [], "holds a sweep: purejax-po sweep --config {path}"),
}


def test_a_mistake_in_a_file_gets_one_line(subtests, write, capsys):
    for name in MISTAKES:
        with subtests.test(name):
            text, flags, expected = MISTAKES[name]
            path = write(text)
            assert cli.main(["train", *flags, "--config", path]) == 2
            errors = capsys.readouterr().err
            assert errors.count("\n") == 1
            assert expected.format(path=path) in errors


def test_mistakes_of_comparisons_and_of_python(write, capsys, tmp_path):
    path = write("algorithm = 'ppo'")
    for arguments, expected in (
        (["compare", "--config", path], "got 'algorithm'; did you mean algorithms?"),
        (["compare", f"trpo={path}"], f"trpo={path} must be settings of trpo, got ppo's"),
        (["train", "--config"], "config must be given a TOML file"),
        (["train", "--config", "nowhere.toml"], "got nowhere.toml: No such file"),
    ):
        assert cli.main(arguments) == 2
        assert expected in capsys.readouterr().err
    with pytest.raises(ValueError, match="got 'num_devices'"):
        po.load_config(write("num_devices = 2"))
    with pytest.raises(ValueError, match=r"config\.json"):
        po.load_config(tmp_path / "none.json")
