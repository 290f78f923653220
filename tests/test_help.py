"""`--help` in groups: everyday flags first, none lost."""

import dataclasses

import pytest

from purejax_po import cli
from purejax_po.cli import helping
from purejax_po.cli.arguments import option_of
from purejax_po.experiment.config import ExperimentConfig
from purejax_po.experiment.run.host import Host


@pytest.mark.parametrize("command", ["train", "sweep"])
def test_flags_stand_in_groups(command, capsys):
    with pytest.raises(SystemExit):
        cli.main([command, "ppo", "--help"])
    shown = capsys.readouterr().out
    groups = [*helping.GROUPS, helping.ALGORITHM, helping.ADVANCED]
    titles = [shown.index(f" {group.name} options ") for group in groups]
    assert titles == sorted(titles)
    assert shown.index("--env ") < shown.index("--seeds") < shown.index("--total-steps")
    assert shown.index("hyperparams options") < titles[-1] < shown.index("--checkpoint-every")
    for group in groups:
        for flag in group.flags:
            assert (flag in shown) == (command == "sweep" or flag != "--set"), flag


def test_every_setting_has_a_group():
    known = {flag for group in (*helping.GROUPS, helping.ADVANCED) for flag in group.flags}
    suppressed = {"algorithm", "sweep", "progress", "observers"}
    for config in (ExperimentConfig, Host):
        for field in dataclasses.fields(config):
            if field.name not in suppressed:
                assert option_of(field.name) in known, field.name


def test_other_commands_keep_theirs(capsys):
    with pytest.raises(SystemExit):
        cli.main(["render", "--help"])
    assert "what options" not in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["compare"], ["tune", "ppo"]])
def test_help_fits_eighty_columns(arguments, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        cli.main([*arguments, "--help"])
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert "(default: )" not in shown
    if arguments:
        assert shown.index(" what options ") < shown.index(" where options ")
        assert ("search options" in shown) == (arguments[0] == "tune")
