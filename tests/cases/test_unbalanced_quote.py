"""Settings behind a quote that is not closed: the script ends, and names the setting."""

import subprocess

import pytest

from tests.support.helpers import REPOSITORY


def run(script: str, **settings: str) -> subprocess.CompletedProcess:
    prelude = f"set -euo pipefail; source {REPOSITORY}/examples/mustc/lib.sh; "
    environment = {"PATH": "/usr/bin:/bin", **settings}
    return subprocess.run(["bash", "-c", prelude + script], capture_output=True, text=True, env=environment)


@pytest.mark.parametrize(
    "text",
    [
        "--dropout 0.3 --label-smoothing 0.1 '--clip-norm 5",
        "--note it's --dropout 0.3",
        '--note "',
        "--note a\\",
        "--a 'two\nlines'",
    ],
)
def test_the_script_ends(text):
    for script in ('read_words words "$TEXT" EXTRA_TRAIN_ARGS', 'read_words words "$TEXT" EXTRA_TRAIN_ARGS || true'):
        done = run(f"{script}; echo went on", TEXT=text)
        assert done.returncode == 1 and "went on" not in done.stdout
        shown = text.replace("\n", " ")
        assert f"EXTRA_TRAIN_ARGS={shown}: a quote is not closed" in done.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        (" \n ", []),
        ("--a b", ["--a", "b"]),
        ("""--note "it's" --x 'a  b' c\\ d \\' \\\\""", ["--note", "it's", "--x", "a  b", "c d", "'", "\\"]),
        ("a\nb", ["a", "b"]),
        ("--betas '(0.9, 0.98)' $HOME `ls` *", ["--betas", "(0.9, 0.98)", "$HOME", "`ls`", "*"]),
    ],
)
def test_words_are_those_of_a_shell(text, words):
    done = run('read_words words "$TEXT"; for word in "${words[@]}"; do printf "%s|" "$word"; done', TEXT=text)
    assert done.returncode == 0 and done.stdout.split("|")[:-1] == words


def test_every_setting_in_words_is_named():
    for script in (REPOSITORY / "examples" / "mustc").glob("*.sh"):
        for line in script.read_text(encoding="utf-8").split("\n"):
            if "read_words " in line and "read_words()" not in line:
                name = line.split()[-1]
                assert f'"${name}"' in line or f'"${{{name}-}}"' in line
