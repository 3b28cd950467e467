#!/usr/bin/env bash
# Set up if need be, then run the linter and the tests. Further arguments go to pytest.
#
#   bash scripts/test.sh                        # everything
#   bash scripts/test.sh tests/data -k wav      # some
#   TEST_WORKERS=8 bash scripts/test.sh         # in 8 processes (3 unless given: on two cores, since some tests wait)
#   bash scripts/test.sh --lowest               # the quick ones, with the lowest versions that setup.py allows
#   bash scripts/test.sh --resolve 3.10 3.12    # no tests: does pip find releases of all that setup.py asks for?
#
# --lowest makes .venv-lowest with $PYTHON (python3) and installs into it the lower end of each range
# in setup.py; what these need in turn is as new as they allow. torch is PyPI's build for CUDA, a
# download of some 2.7 GB, unless TORCH_SPEC says otherwise, as in
#   TORCH_SPEC='torch --index-url https://download.pytorch.org/whl/cpu' bash scripts/test.sh --lowest
# The upper ends are what a new environment gets (rm -r .venv first). --resolve installs nothing.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

use_lowest_versions() { # point setup.sh at an environment of its own, and pip at the lower ends
    export VIRTUAL_ENV=$LST_ROOT/.venv-lowest
    [[ -x $VIRTUAL_ENV/bin/python ]] || "${PYTHON:-python3}" -m venv "$VIRTUAL_ENV"
    export PIP_CONSTRAINT=$VIRTUAL_ENV/lowest.txt TORCH_SPEC=${TORCH_SPEC:-torch}
    "$VIRTUAL_ENV/bin/python" scripts/requirements.py --lowest >"$PIP_CONSTRAINT"
}

resolve() { # PYTHON_VERSION...: fairseq aside, of which PyPI has only the source
    [[ $# -gt 0 ]] || die "--resolve needs versions of Python, as in --resolve 3.10 3.12"
    local folder version status=0
    folder=$(mktemp -d)
    # The only other one without a wheel on PyPI; pip takes no source for another Python.
    python -m pip wheel -q --no-deps --wheel-dir "$folder" antlr4-python3-runtime==4.9.3
    for version in "$@"; do
        python scripts/requirements.py --python "$version" >"$folder/requirements.txt"
        if python -m pip install -q --disable-pip-version-check --dry-run --ignore-installed \
            --only-binary :all: --python-version "$version" --target "$folder/target" \
            --find-links "$folder" -r "$folder/requirements.txt"; then
            echo "Python $version: pip finds all of setup.py's requirements"
        else
            status=1
        fi
    done
    rm -r "$folder"
    return "$status"
}

cd "$LST_ROOT"
case "${1:-}" in
    -h | --help) show_help "${BASH_SOURCE[0]}" && exit ;;
    --lowest)
        use_lowest_versions
        set -- -m "not slow" "${@:2}"
        ;;
    --resolve)
        use_environment
        resolve "${@:2}"
        exit
        ;;
esac
bash scripts/setup.sh
use_environment
# One thread a process: several workers with a thread for each core only get in each other's way.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

failed=0
ruff check . || failed=1
python -m pytest -n "${TEST_WORKERS:-3}" --dist worksteal "$@" || failed=1
exit "$failed"
