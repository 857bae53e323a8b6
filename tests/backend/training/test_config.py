"""Configurations: what is refused by name, the ready ones, and the Slurm script."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from retake_backend import cli
from retake_backend.training import slurm
from retake_backend.training.config import check_shares, from_table, read_config, ready_configs
from retake_backend.training.registry import TRAINEES, make_trainee
from retake_backend.training.wan_trainees import EditByTrackSettings, Track2ViewSettings, TrajectorySettings
from retake_shared.errors import BadFile, RetakeError

LEAST = """
trainee = "edit-by-track"
out = "runs/x"
[[stage]]
name = "synthetic"
steps = 10
data = [{pairs = "data"}]
"""
FULL_SIZE = {
    "edit-by-track": EditByTrackSettings,
    "track2view": Track2ViewSettings,
    "trajectory-attention": TrajectorySettings,
}


def written(folder, text):
    path = folder / "config.toml"
    path.write_text(text)
    return path


def test_the_least_configuration_has_the_papers_values_for_the_rest(tmp_path):
    config = read_config(written(tmp_path, LEAST))
    assert config.optimiser.learning_rate == 1e-4
    assert config.picture.tracks == 2000
    assert config.steps == 10
    assert config.stage[0].data[0].pairs == Path("data")
    assert config.precision == "bf16"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (LEAST + "[optimiser]\nlearnin_rate = 1.0", r'optimiser: has an unknown key "learnin_rate".*"learning_rate"'),
        ("stepps = 3\n" + LEAST, r'unknown key "stepps"'),
        (LEAST + "[augmentation]\nzzz = 1", r'unknown key "zzz".*There are: fewest_tracks'),
        (LEAST.replace('out = "runs/x"', ""), r'lacks the key "out"'),
        (LEAST.replace("steps = 10", 'steps = "ten"'), r"stage 1, steps: is 'ten', not a whole number"),
        (LEAST.replace("steps = 10", "steps = 10.5"), r"not a whole number"),
        (LEAST.replace("steps = 10", "steps = true"), r"not a whole number"),
        (LEAST.replace("steps = 10", "steps = 0"), r"at least one step"),
        (LEAST.replace('data = [{pairs = "data"}]', "data = []"), r"at least one step and one entry of data"),
        (LEAST.replace('{pairs = "data"}', '{pairs = "data", generator = "scenes"}'), r"needs one of"),
        (LEAST.replace('{pairs = "data"}', '{pairs = "data", weight = 0}'), r'"weight" is 0'),
        ('precision = "fp8"\n' + LEAST, r'precision: is "fp8".*fp32, bf16'),
        (LEAST + "[batch]\nsize = 5\nat_once = 2", r'no multiple of "at_once"'),
        (LEAST + "[augmentation]\nnoise = 2.0", r'"noise" is 2.0'),
        (LEAST + "[augmentation]\nnoise = nan", r"noise: is nan, not a number"),
        (LEAST + "[optimiser]\nclip = -1.0", r'"clip" is -1.0'),
        (LEAST + "[picture]\nframes = 0", r'"frames" must be at least 1'),
        ("seed = -1\n" + LEAST, r'"seed" is -1'),
        (LEAST + "[look]\nevery = 5", r'held-out "data"'),
        (LEAST + LEAST[LEAST.index("[[") :], r"two stages of one name"),
        (LEAST.replace("= 10", "= ="), r"is no TOML"),
        ("trainee = 3\nout = 'x'\nstage = 4", r"is 3, not a text"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, change, words):
    with pytest.raises(BadFile, match=words) as caught:
        read_config(written(tmp_path, change))
    assert str(tmp_path) in str(caught.value)


def test_a_file_that_is_not_there_names_the_ready_ones(tmp_path):
    with pytest.raises(BadFile, match=r"does not exist.*edit-by-track.*track2view.*trajectory-attention"):
        read_config(tmp_path / "none.toml")


def test_a_folder_called_like_a_ready_configuration_does_not_hide_it_and_a_file_does(tmp_path, monkeypatch, capsys):
    """What is shown, to copy it, is what would be trained."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "draft").mkdir()
    assert read_config("draft").trainee == "draft"
    with pytest.raises(BadFile, match=r"cannot be read.*Name a TOML file"):
        read_config(tmp_path)
    (tmp_path / "paper").write_text(LEAST)
    assert read_config("paper").trainee == "edit-by-track"
    assert cli.main(["train", "paper", "--show"]) == 0
    assert capsys.readouterr().out == LEAST


@pytest.mark.parametrize("name", ready_configs())
def test_a_ready_configuration_is_whole(name):
    config = read_config(name)
    assert config.trainee in TRAINEES
    if config.trainee in FULL_SIZE:
        settings = from_table(FULL_SIZE[config.trainee], config.model, name)
        assert settings.base == "wan2.1-t2v-1.3b"


def test_the_ready_configurations_are_the_papers(tmp_path):
    edit, view, trajectory = (read_config(name) for name in FULL_SIZE)
    assert [stage.name for stage in edit.stage] == ["synthetic", "real"]
    assert (edit.optimiser.learning_rate, trajectory.optimiser.learning_rate) == (1e-4, 1e-5)
    assert (edit.model["lora"]["rank"], edit.picture.tracks, edit.picture.frames) == (64, 2000, 81)
    assert (view.model["conditioner"]["layers"], view.picture.tracks, view.augmentation.frames) == (8, 1152, 0.5)
    assert "lora" not in trajectory.model
    assert (trajectory.batch.size, trajectory.steps) == (1, 10_000)


@pytest.mark.parametrize(("name", "settings"), FULL_SIZE.items())
def test_what_a_configuration_builds_is_what_the_class_would_build_alone(name, settings):
    """The settings' own defaults and those of the ready file are one: nobody gets another model by leaving a key out."""
    alone = {"licence": "Apache-2.0", "latents": "data/latents"}
    assert from_table(settings, read_config(name).model, name) == from_table(settings, alone, name)


def test_a_configuration_of_another_machine_is_shared_out_or_refused(tmp_path):
    config = read_config(written(tmp_path, LEAST + "[batch]\nsize = 8\nat_once = 2"))
    for processes in (1, 2, 4):
        check_shares(config, processes)
    with pytest.raises(RetakeError, match=r"4 pieces .*3 processes.*multiple of 6"):
        check_shares(config, 3)


def test_a_trainee_without_a_licence_is_refused():
    with pytest.raises(BadFile, match='lacks the key "licence"'):
        make_trainee("edit-by-track", {})


def bash(text):
    return subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True)


def test_the_slurm_script_is_sound_and_runs_the_command_on_every_gpu(tmp_path):
    """Syntax by bash; then the script itself with stand-ins for Slurm's commands, names with blanks and quotes in them."""
    config = tmp_path / "it's a config.toml"
    text = slurm.script([str(config)], "it's a config", 2, 4, tmp_path)
    assert bash(text).returncode == 0
    assert "#SBATCH --nodes=2" in text
    assert "#SBATCH --ntasks-per-node=4" in text
    tools = tmp_path / "bin"
    tools.mkdir()
    log = tmp_path / "log"
    (tools / "scontrol").write_text(f'#!/bin/bash\n[ "$1" = show ] && echo node7 && echo node8\necho "$@" >> "{log}"\n')
    (tools / "srun").write_text('#!/bin/bash\nexport SLURM_PROCID=5 SLURM_LOCALID=1 SLURM_NTASKS=8\nexec "$@"\n')
    stand_in = tools / "python"
    stand_in.write_text(
        f'#!/bin/bash\necho "$RANK $LOCAL_RANK $WORLD_SIZE $MASTER_ADDR $MASTER_PORT|$*" > "{log}.python"\nexit 130\n'
    )
    for tool in tools.iterdir():
        tool.chmod(0o755)
    text = text.replace(sys.executable, str(stand_in))
    environment = {"PATH": f"{tools}:/usr/bin:/bin", "SLURM_JOB_NODELIST": "node[7-8]", "SLURM_JOB_ID": "42"}
    ran = subprocess.run(["bash"], input=text, text=True, capture_output=True, env=environment)
    assert ran.returncode == 130, ran.stderr
    said = Path(f"{log}.python").read_text().strip()
    assert said == f"5 1 8 node7 29500|-m retake_backend.cli train {config}"
    assert "requeue 42" in log.read_text()  # stopped with a checkpoint: it goes on in the queue


@pytest.mark.parametrize("text", ["2", "x8", "0x8", "2x0", "2 x 8", "2x8x1", "-1x8"])
def test_nodes_and_gpus_that_are_none_are_refused(text):
    with pytest.raises(RetakeError, match="NODESxGPUS"):
        slurm.nodes_and_gpus(text)


def test_the_command_prints_scripts_and_configurations(capsys):
    assert cli.main(["train", "edit-by-track", "--slurm", "2x4"]) == 0
    out = capsys.readouterr().out
    assert bash(out).returncode == 0
    assert out.endswith('exit "$code"\n')
    assert cli.main(["train", "track2view", "--show"]) == 0
    assert tomllib.loads(capsys.readouterr().out)["trainee"] == "track2view"
    assert cli.main(["train", "edit-by-track", "--slurm", "3x1"]) == 2
    assert "cannot be shared out to 3" in capsys.readouterr().err
