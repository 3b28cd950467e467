# Which Python environment this checkout works in. Sourced by scripts/setup.sh, which fills it, and by everything that uses
# it, so that they never disagree. The first of these that scripts/setup.sh has filled is used:
#   the active virtualenv (VIRTUAL_ENV), the active conda environment (CONDA_PREFIX), .venv in the checkout.
# shellcheck shell=bash

LST_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Where results go unless told: into the checkout, or, of the recipe that a wheel has brought, where it is called.
LST_RESULTS=$LST_ROOT/results
if [[ ! -d $LST_ROOT/lst_fairseq ]]; then LST_RESULTS=$PWD/results; fi
SETUP_STAMP=.lst-fairseq-setup # in the environment: what it was set up from

die() { # one clear line on standard error, and out
    local text=$*
    printf 'error: %s\n' "${text//$'\n'/ }" >&2
    exit 1
}

show_help() { # the comment at the head of a script is its help
    awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$1"
}

hash_of() { sha256sum | cut -d' ' -f1; }

use_environment() { # put the environment's commands first on PATH
    local candidate
    for candidate in "${VIRTUAL_ENV:-}" "${CONDA_PREFIX:-}" "$LST_ROOT/.venv"; do
        if [[ -n $candidate && -e $candidate/$SETUP_STAMP ]]; then
            export PATH="$candidate/bin:$PATH"
            break
        fi
    done
    local first="run bash scripts/setup.sh first" again="run bash scripts/setup.sh again"
    if [[ ! -e $LST_ROOT/scripts/setup.sh ]]; then # the recipe of a wheel
        again="activate the environment that has lst-fairseq"
        first="$again, or pip install --no-build-isolation --no-deps fairseq-fixed==0.12.3.1 into it"
    fi
    command -v fairseq-train >/dev/null || die "fairseq is not installed here: $first"
    command -v lst >/dev/null || die "the command lst is not installed here: $again"
    # A checkout runs its own code, whatever the environment was set up from.
    if [[ -d $LST_ROOT/lst_fairseq ]]; then export PYTHONPATH=$LST_ROOT${PYTHONPATH:+:$PYTHONPATH}; fi
}
