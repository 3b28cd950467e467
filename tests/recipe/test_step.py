"""The step engine: what is finished is not run again, what was interrupted goes on, what is otherwise is refused."""

import hashlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from lst_fairseq.cli.main import main
from lst_fairseq.recipe.attempt import Cost
from lst_fairseq.recipe.folder import StepFolder
from lst_fairseq.recipe.step import as_typed, settings_of, value_of
from tests.support.helpers import REPOSITORY
from tests.support.recipe import wait_for

# Notes its arguments; says how far it is, waits for a file named GO where it is told to, and fails where told to.
TRAIN = """\
printf '%s\\n' "$*" >>calls
sleep 0.05
echo '2026-01-01 | INFO | train_inner | {"loss": "4.5", "num_updates": "50", "wall": "7"}'
while [[ -n ${WAITS:-} && ! -e GO ]]; do sleep 0.05; done
[[ -z ${WAITS:-} ]] || echo '2026-01-01 | INFO | train_inner | {"loss": "4", "num_updates": "90", "wall": "9"}'
[[ -z ${FAILS:-} ]] || { echo "RuntimeError: disk on fire"; exit 3; }
"""
GENERATE = """\
for ((i = 0; i < 250; i++)); do printf 'T-%d\\tref\\n' "$i"; done
echo "no room" >&2
exit "${FAILS:-0}"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with stubs of fairseq's commands on PATH and a split of 250 segments in `data`."""
    (tmp_path / "bin").mkdir()
    for name, body in (
        ("fairseq-train", TRAIN),
        ("fairseq-generate", GENERATE),
        ("torchrun", TRAIN),
    ):
        path = tmp_path / "bin" / name
        path.write_text(f"#!/usr/bin/env bash\n{body}")
        path.chmod(0o755)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "test.tsv").write_text("header\n" + "line\n" * 250)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return tmp_path


def command(*words: str, flags: Sequence[str] = ()) -> list[str]:
    return ["step", "run", "--name", "stage 1", "--made-from", "data=abc", *flags, "--", *words]


def train(*arguments: str, flags: Sequence[str] = ()) -> int:
    return main(command("fairseq-train", "data", *arguments, flags=flags))


def calls() -> list[str]:
    return Path("calls").read_text(errors="replace").splitlines() if Path("calls").exists() else []


def refusal(call: Callable[[], int]) -> str:
    with pytest.raises(SystemExit) as error:
        call()
    return str(error.value)


def heed_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def started(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    """The same in a process of its own."""
    words = [sys.executable, "-m", "lst_fairseq.cli", *command("fairseq-train", "data", *arguments)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), **environment}
    return subprocess.Popen(
        words,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=heed_interrupts,
        start_new_session=True,
    )


def test_a_step_is_run_once(folder, capsys):
    flags = ["--title", "stage 1: 90 updates"]
    assert train("--lr", "1", "--max-update", "90", flags=flags) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "== stage 1: 90 updates"
    assert re.fullmatch(r"   stage 1: update 50 of 90, loss 4\.5, \d s", said[1])
    assert said[2].startswith("== stage 1: trained in ") and len(said) == 3
    for arguments in (
        ("--lr", "1", "--max-update", "90"),
        ("--max-update", "90", "--lr", "1"),
        (
            "--max-update",
            "90",
            "--lr",
            "1",
            "--not-compared",
            "--num-workers",
            "7",
            "--save-dir",
            "x",
        ),
    ):
        assert train(*arguments) == 0
        assert capsys.readouterr().out == f"== done already: {folder}/run\n"
    assert len(calls()) == 1


def test_other_settings_are_refused_with_both(folder):
    train("--lr", "1", "--max-update", "90", "--adam-betas", "(0.9, 0.98)")
    Path("run/checkpoint_last.pt").touch()
    for arguments, shown in {
        ("--lr", "2", "--max-update", "90", "--adam-betas", "(0.9, 0.98)"): "< --lr 1\n> --lr 2",
        ("--lr", "1", "--max-update", "90"): "< --adam-betas (0.9, 0.98)",
        ("--lr", "2", "--lr", "1", "--max-update", "90", "--adam-betas", "(0.9, 0.98)"): "> --lr 2",
        ("--lr", "1", "--max-update", "90", "--adam-betas", "(0.9, 0.98)", "--cpu"): "> --cpu",
    }.items():
        message = refusal(lambda arguments=arguments: train(*arguments))
        assert message == (
            f"error: {folder}/run was made with other settings (<) than these (>):\n{shown}\n"
            "give FORCE=1 to make it again, or another WORK to keep both"
        )
    assert len(calls()) == 1
    assert train("--lr", "2", flags=["--force"]) == 0 and len(calls()) == 2
    assert not Path("run/checkpoint_last.pt").exists()
    assert "--lr 2\n" in Path("run/.settings").read_text()


def test_of_a_flag_given_twice_the_last_one_counts(folder):
    train("--lr", "1", "--lr", "2")
    message = refusal(lambda: train("--lr", "2", "--lr", "1"))
    assert message.split("\n")[1:-1] in (["< --lr 1", "> --lr 1"], ["> --lr 2", "< --lr 2"])
    assert len(calls()) == 1


def test_a_folder_of_somebody_else_is_not_emptied(folder):
    Path("run").mkdir()
    Path("run/precious").touch()
    train("--lr", "1", flags=["--force"])
    assert Path("run/precious").exists()


def test_a_failed_step_goes_on_and_its_cost_adds_up(folder, monkeypatch, capsys):
    monkeypatch.setenv("FAILS", "1")
    message = refusal(lambda: train("--lr", "1"))
    assert message == (
        f"error: fairseq-train failed (stage 1); all of its output is in {folder}/run/train.log; "
        "the same command goes on where it stopped"
    )
    assert capsys.readouterr().err.endswith("RuntimeError: disk on fire\n")
    place = StepFolder(folder / "run", "--lr 1\n--data abc")
    first = place.cost()
    assert first.attempts == 1 and not place.is_finished() and place.is_ours()
    monkeypatch.delenv("FAILS")
    train("--lr", "1")
    assert (
        place.cost().attempts == 2 and place.cost().seconds > first.seconds and place.is_finished()
    )
    assert int(Path("run/seconds").read_text()) == int(place.cost().seconds)
    assert Path("run/train.log").read_text().count("train_inner") == 2


def test_seconds_of_earlier_versions_count(folder):
    Path("run").mkdir()
    Path("run/seconds").write_text("100\n")
    train("--lr", "1")
    cost = StepFolder(folder / "run", "").cost()
    assert 100 <= cost.seconds < 130 and cost.attempts == 2
    for damaged in ("", "{", "[1]", '{"seconds": 1, "other": 2}'):
        Path("run/cost.json").write_text(damaged)
        Path("run/seconds").write_text("cut")
        assert StepFolder(folder / "run", "").cost() == Cost()


def test_what_earlier_versions_finished_is_finished(folder, capsys):
    """By their .settings, in whose order the hash was made that later steps know."""
    Path("run").mkdir()
    Path("run/.settings").write_text("--task lst_st\n--lr 1\n--startup-timeout 600\n--data abc\n")
    digest = hashlib.sha256(Path("run/.settings").read_bytes()).hexdigest()
    Path("run/.done").write_text(f"{digest}\n")
    train("--lr", "1", "--startup-timeout", "600", "--task", "lst_st")
    assert "done already" in capsys.readouterr().out and not calls()
    Path("run/.done").unlink()
    train("--lr", "1", "--task", "lst_st", "--startup-timeout", "600")
    assert len(calls()) == 1 and Path("run/.done").read_text() == f"{digest}\n"


def test_progress_is_shown_as_it_comes(folder):
    """The line is there while training still runs, and stays in the log of a killed engine."""
    with started("--max-update", "90", WAITS="1") as process:
        assert process.stdout.readline().startswith("   stage 1: update 50 of 90, loss 4.5, ")
        assert process.poll() is None
        Path("GO").touch()
        assert "trained in" in process.stdout.read() and process.wait() == 0


def test_one_run_at_a_time(folder, capsys):
    """Also while the command of an engine that was killed lives on, and its cost until then is known."""
    with started("--lr", "1", WAITS="1") as process:
        process.stdout.readline()
        wait_for(lambda: StepFolder(folder / "run", "").cost().seconds > 0.1)
        for end in (lambda: None, process.kill):
            end()
            assert train("--lr", "1", flags=["--force"]) == os.EX_TEMPFAIL
            error = capsys.readouterr().err
            assert error.startswith(
                f"error: {folder}/run is being made by another run (process {process.pid} on "
            )
            assert error.endswith(
                "): wait until that one has ended, or give this one another WORK\n"
            )
        Path("GO").touch()
    place = StepFolder(folder / "run", "")
    wait_for(lambda: not place.is_in_use())
    assert place.cost().attempts == 1
    assert train("--lr", "1") == 0 and place.cost().attempts == 2


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_an_engine_that_is_ended_ends_its_command(folder, how):
    with started("--lr", "1", WAITS="1") as process:
        process.stdout.readline()
        # Of Ctrl-C a terminal tells all that runs in it.
        os.killpg(process.pid, how) if how == signal.SIGINT else process.send_signal(how)
        assert process.wait(20) == (143 if how == signal.SIGTERM else -signal.SIGINT)
    place = StepFolder(folder / "run", "--lr 1\n--data abc")
    wait_for(
        lambda: not place.is_in_use()
    )  # until the last process that the command has started is gone
    assert not place.is_finished() and place.cost().seconds > 0


def test_a_shell_may_hold_the_lock_until_it_ends(folder, capsys):
    """Also where its child has ended that took it, and while a command lives on that it has started."""
    Path("run").mkdir()
    script = """
        exec {lock}<>run/.step.lock
        "$0" -m lst_fairseq.cli step run --lock $lock --made-from data=abc -- bash -c 'sleep 1 &' >said
        echo done; read -r; sleep 1 >said & exit
    """
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(
        ["bash", "-c", script, sys.executable], env=environment, **pipes
    ) as shell:
        assert shell.stdout.readline() == "done\n"
        place = StepFolder(folder / "run", "--data abc")
        assert place.is_finished() and place.is_in_use()
        assert train("--lr", "1", flags=["--force"]) == os.EX_TEMPFAIL
        shell.communicate("\n")
    assert place.is_in_use()  # by what sleeps
    wait_for(lambda: not place.is_in_use())


def test_the_command_can_be_run_by_hand(folder):
    words = [
        "--prompt",
        "it's {speech}\n--not a flag",
        "--a",
        "x --b",
        "--empty",
        "",
        "--betas",
        "(0.9, 0.98)",
        "--c=d e",
    ]
    train(*words)
    typed = Path("run/command.txt").read_text()
    assert shlex.split(typed.replace("\\\n", "")) == ["fairseq-train", "data", *words]
    assert (
        typed.startswith("fairseq-train data \\\n    --prompt ")
        and "\n    --c=" not in typed.split("--betas")[0]
    )
    assert typed == as_typed(["fairseq-train", "data", *words])
    subprocess.run(["bash", "run/command.txt"], check=True, stdout=subprocess.DEVNULL)
    assert calls()[: len(calls()) // 2] == calls()[len(calls()) // 2 :]


def test_several_nodes(folder):
    """The first one keeps the folder; the others take part under the same launcher."""
    launcher = ["--launcher", "torchrun --nnodes 2 -m 'a b'"]
    train("--lr", "1", flags=launcher)
    assert calls() == ["--nnodes 2 -m a b data --lr 1"]
    typed = Path("run/command.txt").read_text()
    assert shlex.split(typed.replace("\\\n", ""))[:5] == [
        "torchrun",
        "--nnodes",
        "2",
        "-m",
        "a b",
    ]
    words = [
        *command("fairseq-train", "data", "--lr", "2", flags=[*launcher, "--force", "--follower"])
    ]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    before = sorted(path.name for path in Path("run").iterdir())
    subprocess.run([sys.executable, "-m", "lst_fairseq.cli", *words], check=True, env=environment)
    assert calls()[1:] == ["--nnodes 2 -m a b data --lr 2 --log-format none"]
    assert sorted(path.name for path in Path("run").iterdir()) == before
    with pytest.raises(
        SystemExit, match=r"other: only training takes several nodes: run this step on one alone"
    ):
        main(["step", "other", "--follower", "--made-from", "x=y", "--", "true"])


def test_translations_are_counted(folder, monkeypatch, capsys):
    generate = ["fairseq-generate", "data", "--path", "m.pt", "--beam", "4"]
    assert main(command(*generate)) == 0
    assert (
        capsys.readouterr().out
        == "== translating test: 250 segments\n   100 of 250\n   200 of 250\n"
    )
    assert Path("run/generate-test.txt").read_text().count("T-") == 250
    assert Path("run/generate.log").read_text() == "no room\n"
    monkeypatch.setenv("FAILS", "1")
    message = refusal(lambda: main(command(*generate, flags=["--force"])))
    files = f"{folder}/run/generate.log and {folder}/run/generate-test.txt"
    assert message == f"error: fairseq-generate failed; all of its output is in {files}"
    assert capsys.readouterr().err == "no room\n"


def test_a_name_that_is_no_utf8(folder, capsys):
    """As a shell gives it: kept as it is, and the same the next time."""
    for _ in range(2):
        train("--llm", os.fsdecode(b"/models/caf\xe9"))
    assert "done already" in capsys.readouterr().out
    assert b"--llm /models/caf\xe9\n" in Path("run/.settings").read_bytes() and len(calls()) == 1


def test_other_commands_speak_for_themselves(folder, capfd):
    def step(*words: str) -> int:
        return main(["step", "run", "--made-from", "data=abc", "--", *words])

    assert step("bash", "-c", 'echo "hello $*"; exit 5', "bash", "you", "--", "x", "--", "y") == 5
    assert capfd.readouterr().out == "hello you -- x -- y\n" and not Path("run/.done").exists()
    assert step("bash", "-c", "exit 75") == 1  # which says of the engine that the folder is in use
    assert step("bash", "-c", "kill -9 $$") == 128 + 9
    assert (
        capfd.readouterr().err
        == "bash was ended by SIGKILL, as the system does where memory runs out\n"
    )
    assert "no-such-program: no such command; check its name" in refusal(
        lambda: step("no-such-program")
    )
    assert step("true") == 0 and step("false") == 0 and "done already" in capfd.readouterr().out


def test_what_cannot_be_compared_is_refused(folder):
    message = refusal(lambda: main(["step", "run", "--", "bash", "-c", "echo --lr"]))
    assert (
        "/run: the command has no flags that could be compared: say what decides its outcome"
        in message
    )
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["step", "run"])
    with pytest.raises(SystemExit, match=r"^2$"):
        train("--lr", "1", flags=["--launcher", "it's"])


def test_a_step_that_has_made_nothing_takes_other_settings(folder, monkeypatch):
    monkeypatch.setenv("FAILS", "1")
    refusal(lambda: train("--lr", "wrong"))
    for name in (".lock", "empty"):  # fairseq-train's own, and what it has opened alone
        Path("run", name).touch()
    monkeypatch.delenv("FAILS")
    assert train("--lr", "1") == 0 and Path("run/.settings").read_text() == "--lr 1\n--data abc\n"
    assert Path("run/train.log").read_text().count("train_inner") == 1


@pytest.mark.parametrize("change", ["moved", "emptied"])
def test_a_log_that_is_moved_or_emptied_stops_nothing(folder, change):
    with started("--max-update", "90", WAITS="1") as process:
        process.stdout.readline()
        if change == "moved":
            Path("run/train.log").rename("log")
        else:
            Path("run/train.log").write_text("")
        Path("GO").touch()
        said = process.stdout.read()
        assert "trained in" in said and process.wait() == 0
        assert "update 90 of 90" in said or change == "emptied"


def test_the_last_words_of_a_log(folder, monkeypatch, capsys):
    """Of this attempt, also without a line break behind them; a lost process comes first."""
    train = folder / "bin" / "fairseq-train"
    train.write_text(
        "#!/usr/bin/env bash\nprintf 'srun: error: n1: task 2: Killed\\n1\\n2\\nfatal: 3'; kill -9 $$\n"
    )
    for _ in range(2):
        refusal(lambda: main(command("fairseq-train", "data", "--lr", "1")))
        lines = capsys.readouterr().err.splitlines()
        assert lines[1:] == ["srun: error: n1: task 2: Killed", "1", "2", "fatal: 3"]
        assert lines[0].startswith("fairseq-train was ended by SIGKILL")


def test_a_folder_that_is_cleared_is_nobodys_result_at_any_moment(folder, monkeypatch):
    train("--lr", "1")
    Path("run/checkpoint_last.pt").touch()
    removed = []
    monkeypatch.setattr("lst_fairseq.recipe.folder.remove", lambda path: removed.append(path.name))
    message = refusal(lambda: train("--lr", "2", flags=["--force"]))
    assert removed[0] == ".done" and removed[-1] == ".settings" and len(calls()) == 1
    assert (
        message
        == f"error: {folder}/run/.done cannot be removed: change its permissions, or set another WORK"
    )


def test_a_place_that_cannot_be_written(folder):
    Path("run").touch()
    message = refusal(lambda: train("--lr", "1"))
    assert "/run cannot be written (File exists): set WORK to a directory that can" in message
    Path("run").unlink()
    assert main(["step", "run/deeper", "--made-from", "x=y", "--", "true"]) == 0


def test_what_decides_the_outcome():
    words = [
        "fairseq-generate",
        "data",
        "--beam",
        "4",
        "--not-compared",
        "--gen-subset",
        "test",
        "--path",
        "m.pt",
    ]
    assert settings_of(words, {"model": "m.pt abc"}) == "--beam 4\n--model m.pt abc"
    assert settings_of(["bash", "-c", "x --y"], {}) == ""
    assert (
        settings_of(["lst", "prep", "mustc", "--splits", "a", "b", "--out", "o"], {})
        == "--splits a b\n--out o"
    )
    assert value_of(["x", "--max-update", "1", "--max-update=2"], "--max-update", "?") == "2"
    assert value_of(["x", "--max-update"], "--max-update", "?") == "?"


def test_cost_is_json_of_one_line(folder):
    train("--lr", "1")
    found = json.loads(Path("run/cost.json").read_text())
    assert (
        set(found) == {"seconds", "cpu_seconds", "peak_memory_gib", "attempts"}
        and found["peak_memory_gib"] > 0
    )
