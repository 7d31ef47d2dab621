"""Folders that one run at a time may use, records that come back, and the command for them."""

import os
import subprocess
import sys
from pathlib import Path

import attrs
import numpy as np
import pandas as pd
import pytest

import ntklc_helpers
from ntklc_helpers.experiments import __main__ as command
from ntklc_helpers.experiments import pruning_sweep, readouts, records, runs
from ntklc_helpers.experiments.command import main
from ntklc_helpers.experiments.image_nets import TrainingSettings
from ntklc_helpers.experiments.pruning_sweep import Sweep
from ntklc_helpers.experiments.records import Record, RunError, read_record
from ntklc_helpers.experiments.runs import begin

SMALL = Sweep(
    network="resnet_8", data="digits", n_train=60, rounds=1, replicates=1, width=2,
    strategies=["random"], training=TrainingSettings(steps=1, batch_size=30),
)  # fmt: skip


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# --- folders


def test_of_two_runs_in_one_folder_the_second_is_refused_at_once(tmp_path):
    folder = tmp_path / "run"
    with begin(SMALL, folder, "cpu"):
        before = contents(folder)
        for other in (SMALL, attrs.evolve(SMALL, rounds=2)):
            with pytest.raises(RunError, match="is in use by another run"):
                other.run(folder, device="cpu")
        program = (
            "import sys; from ntklc_helpers.experiments.__main__ import main; sys.exit(main())"
        )
        options = ["--preset", "smoke", "--output", str(tmp_path), "--results", str(tmp_path / "r")]
        folder.rename(tmp_path / "pruning_resnet20")
        done = subprocess.run(
            [sys.executable, "-c", program, "pruning_resnet20", *options],
            capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert done.returncode == 1 and done.stderr.count("\n") == 1
        assert "is in use by another run" in done.stderr
        (tmp_path / "pruning_resnet20").rename(folder)
        assert contents(folder) == before
    # The lock ends with the run, however it ends.
    assert len(SMALL.run(folder, device="cpu").table) == 2


ROOT = Path(ntklc_helpers.__file__).parents[1]


def test_a_run_killed_before_it_wrote_its_settings_can_be_begun_again(tmp_path):
    (tmp_path / "settings.json").touch()
    assert len(SMALL.run(tmp_path, device="cpu").table) == 2


def test_other_folders_are_refused_and_left_as_they_are(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for folder in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(RunError, match="holds something else than a run"):
            SMALL.run(folder, device="cpu")
    assert contents(tmp_path) == {"notes.txt": b"mine"}
    with pytest.raises(RunError, match="cannot be used"):
        SMALL.run(tmp_path / "notes.txt" / "run", device="cpu")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/settings.json").write_text("{")
    with pytest.raises(RunError, match="settings.json is damaged"):
        SMALL.run(tmp_path / "run", device="cpu")


def test_no_flipped_bit_gives_other_numbers(tmp_path):
    SMALL.run(tmp_path, device="cpu")
    path = tmp_path / "random-0.pt"
    kept, rng = path.read_bytes(), np.random.default_rng(0)
    with begin(SMALL, tmp_path, "cpu") as run:
        assert len(run.read("random-0")["rows"]) == 2
        for bit in rng.integers(8 * len(kept), size=40):
            flipped = bytearray(kept)
            flipped[bit // 8] ^= 1 << bit % 8
            path.write_bytes(flipped)
            with pytest.raises(RunError, match="random-0.pt is damaged; delete it"):
                run.read("random-0")


def test_what_is_kept_is_made_once(tmp_path):
    made = []

    def make():
        made.append(1)
        return {"x": 0.1, "rows": [{"a": 1}]}

    for _ in range(2):
        with begin(SMALL, tmp_path / "run", "cpu") as run:
            found = run.once("stage", make)
            assert found["x"] == 0.1 and found["rows"] == [{"a": 1}] and found["seconds"] >= 0
    assert made == [1]


def test_no_half_written_file_is_left(tmp_path, monkeypatch):
    def failing(*arguments):
        raise OSError("disk full")

    SMALL.run(tmp_path, device="cpu")
    (tmp_path / "random-0.pt").unlink()
    before = contents(tmp_path)
    for name in ("pathlib.Path.replace", "os.replace"):
        monkeypatch.setattr(name, failing)
    with pytest.raises(OSError, match="disk full"):
        SMALL.run(tmp_path, device="cpu")
    assert contents(tmp_path) == before


# --- records


def record():
    table = pd.DataFrame({"method": ["a", "b, c"], "width": [5, 9], "accuracy": [0.1, 1 / 3]})
    return Record(table, {"seed": 1, "n_train": None}, {"commit": None}, {"extra": [1.5, {"x": 2}]})


def test_records_come_back_to_the_last_digit(tmp_path):
    made = record()
    made.write(tmp_path / "made")
    assert {path.name for path in tmp_path.iterdir()} == {"made.csv", "made.json"}
    back = read_record(tmp_path / "made")
    assert back == made and back.table.accuracy[1] == 1 / 3
    other = record()
    other.table.loc[0, "accuracy"] = 0.2
    assert (back != other) is True and (back == 3) is False


def test_records_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_record(tmp_path / "none")
    for note in ('{"settings": {}, "provenance": {}}', "{", "[]", "{}"):
        (tmp_path / "odd.json").write_text(note)
        (tmp_path / "odd.csv").write_text("method,accuracy\na,one\n")
        with pytest.raises(RunError, match=r"odd.csv and .*odd.json are not the record of a run"):
            read_record(tmp_path / "odd")
    (tmp_path / "odd.csv").write_text("")
    with pytest.raises(RunError, match="are not the record of a run"):
        read_record(tmp_path / "odd")


def test_records_of_the_book_are_found_from_where_a_notebook_runs(tmp_path, monkeypatch):
    (tmp_path / "book/results").mkdir(parents=True)
    (tmp_path / "notebooks").mkdir()
    for folder in (tmp_path, tmp_path / "notebooks"):
        monkeypatch.chdir(folder)
        assert records.find_record("made") is None
    record().write(tmp_path / "book/results/made")
    assert records.find_record("made") == record()
    monkeypatch.chdir("/")
    assert records.find_record("made") is None


def test_the_commit_is_that_of_the_package_s_own_repository(tmp_path):
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x"]
    for arguments in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "another"]):
        subprocess.run([*git, *arguments], check=True)
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/ntklc_helpers").symlink_to(ROOT / "ntklc_helpers")
    program = "import torch; from ntklc_helpers.experiments.runs import provenance as p; "
    program += "print(p(torch.device('cpu'), 1.6))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path,
        capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(tmp_path / "lib")},
    )  # fmt: skip
    assert "'commit': None" in done.stdout and "'seconds': 2" in done.stdout, done.stderr


# --- what notebooks ask of a table


def test_draws_and_cells():
    table = pd.DataFrame({"method": ["b", "a", "a"], "width": 5, "accuracy": [1.0, 2, 3]})
    assert records.draws(table, method="a", width=5).tolist() == [2, 3]
    assert records.draws(table, "width", method="b").tolist() == [5]
    with pytest.raises(ValueError, match="no row of the table has {'method': 'c'}"):
        records.draws(table, method="c")
    for wrong in ({"column": "loss"}, {"zeros": 0}):
        with pytest.raises(ValueError, match="column must be one of method, width, accuracy, got"):
            records.draws(table, **wrong)
    assert (
        records.cell([0.5], ".0%") == "50%"
        and records.cell([1, 3], ".1f", " nats") == "2.0\xa0±\xa01.4 nats"
    )
    assert records.cells(table).to_markdown().splitlines()[-1] == "| a        | 2.50\xa0±\xa00.71 |"


# --- the command

SWEEP = ["--network", "resnet_8", "--data", "digits", "--n-train", "60", "--width", "2"]
SWEEP += ["--rounds", "1", "--steps", "1", "--replicates", "1", "--batch-size", "30"]


def make(tmp_path, *arguments):
    folders = ["--output", str(tmp_path / "run"), "--results", str(tmp_path / "res")]
    return command.main([*arguments, *folders, "--device", "cpu"])


def test_the_command_makes_the_record_of_a_chapter(tmp_path, capsys):
    arguments = ["15_cifar10", "--preset", "smoke", "--n-train", "300", "--steps", "6"]
    arguments += ["--widths", "20", "--levels", "16", "--sparsity-width", "20", "--n-seeds", "1"]
    assert make(tmp_path, *arguments, "--no-nesterov") == 0
    assert "16 levels" in capsys.readouterr().out
    made = read_record(tmp_path / "res/cifar10_vgg19")
    training = made.settings["training"]
    assert made.settings["widths"] == [20] and training["steps"] == 6 and not training["nesterov"]
    assert len(made.table) == 7 + 4
    assert runs.preset_of(made.settings, readouts.PRESETS["cifar10_vgg19"]) is None
    # Without --replace the record that is there stands, and nothing is begun.
    assert make(tmp_path, *arguments, "--seed", "1") == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "is the record of other settings: seed is 0 there" in told
    assert read_record(tmp_path / "res/cifar10_vgg19") == made
    assert make(tmp_path, *arguments, "--no-nesterov", "--seed", "1", "--replace") == 1
    assert "holds a run with other settings: seed is 0 there and 1 here" in capsys.readouterr().err


def test_a_preset_that_one_record_has_is_asked_of_that_one_alone(tmp_path):
    known = {"first": {"paper": SMALL, "other": attrs.evolve(SMALL, seed=1)}}
    known["second"] = {"paper": SMALL}
    told = ["chapter", "--preset", "other", "--device", "cpu"]
    told += ["--output", str(tmp_path / "run"), "--results", str(tmp_path / "res")]
    assert main(known, {"chapter": ["first", "second"]}, "", told) == 0
    seeds = [read_record(tmp_path / "res" / name).settings["seed"] for name in known]
    assert seeds == [1, 0]


def test_the_command_makes_the_records_of_chapter_14(tmp_path, capsys):
    assert make(tmp_path, "18_random_pruning", *SWEEP, "--strategies", "random", "magnitude") == 0
    assert "magnitude" in capsys.readouterr().out
    names = {"pruning_lenet", "pruning_resnet20", "pruning_resnet50", "pruning_criteria"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == names
    made = read_record(tmp_path / "res/pruning_resnet50")
    assert made.settings["network"] == "resnet_8"
    assert list(made.table.strategy.unique()) == ["random", "magnitude"]
    # One of them alone, on the same folders, has nothing left to do.
    assert make(tmp_path, "pruning_resnet20", *SWEEP, "--strategies", "random", "magnitude") == 0
    with pytest.raises(SystemExit):
        make(tmp_path, "pruning_resnet", *SWEEP)
    assert "invalid choice: 'pruning_resnet'" in capsys.readouterr().err


def test_a_smaller_run_does_not_write_over_a_record(tmp_path, capsys):
    (tmp_path / "res").mkdir()
    for path in (ROOT / "book/results").glob("cifar10_vgg19.*"):
        (tmp_path / "res" / path.name).write_bytes(path.read_bytes())
    before = contents(tmp_path / "res")
    assert make(tmp_path, "cifar10_vgg19", "--preset", "smoke") == 1
    assert "data is 'cifar10' there and 'digits' here" in capsys.readouterr().err
    assert contents(tmp_path / "res") == before and not (tmp_path / "run").exists()


def test_results_that_cannot_be_written_are_noticed_before_the_run(tmp_path, capsys):
    (tmp_path / "res").write_text("a file")
    assert make(tmp_path, "pruning_resnet20", *SWEEP) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "--results" in told and "cannot be written to" in told
    assert not (tmp_path / "run").exists()


def test_what_is_refused_is_one_line_and_claims_no_folder(tmp_path, capsys):
    for change, status, message in (
        (["--batch-size", "61"], 1, "batch_size must be at most 60"),
        (["--n-train", "0"], 2, "n_train must be a whole number"),
        (["--network", "vgg19"], 2, "shape (1, 8, 8) is too small"),
    ):
        assert make(tmp_path, "pruning_resnet20", *SWEEP, *change) == status
        told = capsys.readouterr().err
        assert told.count("\n") == 1 and message in told
    assert not (tmp_path / "run").exists()
    # So the corrected command can use it.
    assert make(tmp_path, "pruning_resnet20", *SWEEP) == 0


def test_missing_data_are_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("NTKLC_DATA", str(tmp_path))
    assert make(tmp_path, "pruning_resnet20") == 1
    told = capsys.readouterr().err
    assert "NTKLC_DATA" in told and "Traceback" not in told


def test_an_error_on_the_way_keeps_its_traceback(tmp_path, monkeypatch):
    def broken(*arguments):
        raise ValueError("shapes (3,) and (4,)")

    monkeypatch.setattr(pruning_sweep, "train", broken)
    with pytest.raises(ValueError, match="shapes"):
        make(tmp_path, "pruning_resnet20", *SWEEP)


def test_the_command_can_be_stopped(tmp_path, capsys, monkeypatch):
    def stop(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(readouts, "train", stop)
    assert make(tmp_path, "15_cifar10", "--preset", "smoke") == 130
    assert "Stopped. The same command goes on" in capsys.readouterr().err
