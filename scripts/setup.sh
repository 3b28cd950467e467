#!/usr/bin/env bash
# Set up everything lst-fairseq needs: torch, fairseq (without torchaudio), the plugin and its tools.
# Runs once in some two minutes, besides the download of torch (PyPI's build for CUDA is some 3 GB),
# and in a second when nothing has changed since.
#
#   bash scripts/setup.sh                                  # into .venv, or into the active environment
#   PYTHON=python3.12 bash scripts/setup.sh                # .venv made with this interpreter
#   TORCH_SPEC='torch==2.9.1 --index-url URL' bash scripts/setup.sh    # another torch, as for pip install
#
# Where it installs:
#   an active virtualenv, or conda environment other than base, is used as it is;
#   so is an active environment of any kind whose python already has torch >= 2.8 (a GPU build, say), and that torch is kept;
#   otherwise .venv is made, and sees the system's torch if that is 2.8 or newer.
# An importable fairseq >= 0.12.2 that is there is kept. Otherwise fairseq-fixed is installed, without
# the compiled extensions that speech translation never calls (libbase, libnat and an alignment
# binding, see scripts/fairseq_setup.py). For these, too, in three minutes more:
#   pip install --force-reinstall --no-deps --no-build-isolation fairseq-fixed==0.12.3.1
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
case "${1:-}" in
    "") ;;
    -h | --help) show_help "${BASH_SOURCE[0]}" && exit ;;
    *) die "unknown argument '$1' (scripts/setup.sh takes none; see --help)" ;;
esac

FAIRSEQ=fairseq-fixed==0.12.3.1
TORCH_SPEC=${TORCH_SPEC:-torch==2.13.0}

# --- where ------------------------------------------------------------------------------------------------------------
has_torch() { # PYTHON: does it import torch >= 2.8, of which pip knows?
    "$1" -c 'import torch
from importlib.metadata import version
raise SystemExit([int(part) for part in version("torch").split(".")[:2]] < [2, 8])' >/dev/null 2>&1
}

venv_options=()
base_python=${PYTHON:-python3}
if [[ -n ${VIRTUAL_ENV:-} && -x $VIRTUAL_ENV/bin/python ]]; then
    env_dir=$VIRTUAL_ENV
elif [[ -n ${CONDA_PREFIX:-} && -x $CONDA_PREFIX/bin/python ]] &&
    { [[ ${CONDA_DEFAULT_ENV:-base} != base ]] || has_torch "$CONDA_PREFIX/bin/python"; }; then
    env_dir=$CONDA_PREFIX
else
    env_dir=$LST_ROOT/.venv
    command -v "$base_python" >/dev/null || die "no $base_python here: install Python >= 3.10, or name one with PYTHON=..."
fi

stamp=$(cat "$LST_ROOT/setup.py" "${BASH_SOURCE[0]}" "$LST_ROOT/scripts/fairseq_setup.py" | hash_of)
if [[ $(cat "$env_dir/$SETUP_STAMP" 2>/dev/null) == "$stamp" &&
    -x $env_dir/bin/fairseq-train && -x $env_dir/bin/lst ]]; then
    echo "set up already: $env_dir"
    exit 0
fi

if [[ ! -x $env_dir/bin/python ]]; then
    "$base_python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        die "$base_python is $("$base_python" --version): Python >= 3.10 is needed; name one with PYTHON=..."
    if has_torch "$base_python"; then venv_options+=(--system-site-packages); fi
fi

# --- how --------------------------------------------------------------------------------------------------------------
log=$LST_ROOT/results/setup.log
mkdir -p "$(dirname "$log")"
: >"$log"
scratch=$(mktemp -d)
dots=
finish() {
    if [[ -n $dots ]]; then kill "$dots" 2>/dev/null || true; fi
    rm -rf "$scratch"
}
trap finish EXIT

step() { # TEXT COMMAND...: run one step quietly, with a dot every five seconds; its output goes to the log
    local started=$SECONDS
    printf '  %-48s ' "$1"
    while sleep 5 >/dev/null 2>&1; do printf .; done &
    dots=$!
    if ! "${@:2}" >>"$log" 2>&1; then
        kill "$dots" && dots=
        echo
        grep -iE '^(error|.*error:)' "$log" | tail -n 3 >&2 || true
        die "setup failed at '$1'; all of its output is in $log"
    fi
    kill "$dots" && wait "$dots" 2>/dev/null || true
    dots=
    printf ' ok (%d s)\n' $((SECONDS - started))
}
py() { "$env_dir/bin/python" "$@"; }
# Nothing is compiled to bytecode here: most modules of torch and transformers are never imported,
# and Python compiles the others when they first are (the import check at the end does).
pip() { py -m pip install --disable-pip-version-check --no-input --no-compile "$@"; }
has_fairseq() { # with modules that were compiled for the numpy that is there
    py -c 'import re, fairseq, fairseq.tasks, fairseq.data.data_utils_fast, fairseq.data.token_block_utils_fast
version = [int(x) for x in re.findall(r"\d+", fairseq.__version__)[:3]]
raise SystemExit(version < [0, 12, 2])' 2>/dev/null
}
pip_alone() { # COMMAND ARGUMENTS...: without the package's requirements, with the environment's build tools
    py -m pip "$1" --disable-pip-version-check --no-input --no-deps --no-build-isolation "${@:2}"
}
install_fairseq() { # not isolated, or pip would fetch a second torch; by way of a wheel, for pip freeze
    local source=$scratch/fairseq
    pip -c "$scratch/constraints.txt" "setuptools>=64,<81" wheel "cython>=3,<4" &&
        pip_alone download --no-binary :all: --dest "$scratch" "$FAIRSEQ" &&
        mkdir "$source" && tar -xzf "$scratch"/fairseq*.tar.gz -C "$source" --strip-components 1 &&
        mv "$source/setup.py" "$source/setup_of_fairseq.py" &&
        cp "$LST_ROOT/scripts/fairseq_setup.py" "$source/setup.py" &&
        pip_alone wheel --wheel-dir "$scratch" "$source" &&
        pip --force-reinstall --no-deps --no-index --find-links "$scratch" "$FAIRSEQ"
}

echo "setting up $env_dir (log: $log)"
if [[ ! -x $env_dir/bin/python ]]; then
    step "virtual environment" "$base_python" -m venv "${venv_options[@]}" "$env_dir"
fi

if has_fairseq; then
    echo "  keeping the fairseq that is there: $(py -c 'import fairseq; print(fairseq.__version__)' 2>/dev/null)"
else
    command -v "${CXX:-c++}" >/dev/null || command -v g++ >/dev/null ||
        die "fairseq is compiled on installation and there is no C++ compiler: install one (Debian: apt-get install" \
            "build-essential python3-dev; conda: conda install cxx-compiler) and run this again"
    py -c 'import os, sysconfig; raise SystemExit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' ||
        die "fairseq is compiled on installation and Python.h is missing: install python3-dev and run this again"
fi

if has_torch "$env_dir/bin/python"; then
    echo "  keeping the torch that is there: $(py -c 'from importlib.metadata import version; print(version("torch"))')"
else
    read -ra spec <<<"$TORCH_SPEC"
    step "${spec[0]}" pip "${spec[@]}"
fi
# From here on nothing may replace that torch, whatever a package asks for. pip compares with the
# version in its metadata, which may lack the "+cu130" of torch.__version__.
py -c 'from importlib.metadata import version; print("torch==" + version("torch"))' >"$scratch/constraints.txt"

step "lst-fairseq and its tools" pip -c "$scratch/constraints.txt" -e "$LST_ROOT[mini,baseline,dev]"
if ! has_fairseq; then step "$FAIRSEQ" install_fairseq; fi

step "import check" py -c 'import fairseq.tasks, transformers, lst_fairseq, kaldi_native_fbank, espeakng_loader
from transformers import LlamaForCausalLM'
echo "$stamp" >"$env_dir/$SETUP_STAMP"
echo "ready: $env_dir ($(py -W ignore -c 'import torch
print("torch", torch.__version__, "on", "GPU" if torch.cuda.is_available() else "CPU")'))"
if [[ $env_dir != "${VIRTUAL_ENV:-${CONDA_PREFIX:-}}" ]]; then
    echo "for commands of your own (lst, fairseq-train): source $env_dir/bin/activate"
fi
