#!/usr/bin/env bash
# Both of the recipe's ways of training on the settings of the environment: bash tests/fuzz/recipe.sh
set -euo pipefail
recipe=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../examples/mustc" && pwd)
bash "$recipe/run.sh"
bash "$recipe/baseline.sh"
