#!/usr/bin/env bash
# Set up if need be, then run the linter and the tests. Further arguments go to pytest.
#
#   bash scripts/test.sh                        # everything
#   bash scripts/test.sh tests/data -k wav      # some
#   TEST_WORKERS=8 bash scripts/test.sh         # in 8 processes (3 unless given: on two cores, since some tests wait)
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
case "${1:-}" in -h | --help) show_help "${BASH_SOURCE[0]}" && exit ;; esac

cd "$LST_ROOT"
bash scripts/setup.sh
use_environment
# One thread a process: several workers with a thread for each core only get in each other's way.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

failed=0
ruff check . || failed=1
python -m pytest -n "${TEST_WORKERS:-3}" --dist worksteal "$@" || failed=1
exit "$failed"
