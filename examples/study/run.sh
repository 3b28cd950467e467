#!/usr/bin/env bash
# A study from nothing to its report: the mini corpus where it is not there yet, the backbones, every cell, the report.
#
#   bash examples/study/run.sh mini               # mini, digits, everything or smoke: examples/study/NAME.yaml
#   bash examples/study/run.sh mini --jobs 2      # further arguments are those of lst study
#
# Run it again to go on after an interruption. The report is results/study/NAME/report.html. smoke needs no further backbones
# and shows in some minutes whether everything works. How long the others take is in examples/study/README.md.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
source "$root/scripts/env.sh"
name=${1:-}
case "$name" in -h | --help) show_help "${BASH_SOURCE[0]}" && exit ;; esac
study=$root/examples/study/$name.yaml
[[ -n $name && -f $study ]] || die "no study is called '$name': choose one of $(cd "$root/examples/study" && echo *.yaml)"
use_environment
digits=$root/data/digits
[[ $name != digits || -d $digits ]] || die "$digits is not there: examples/mini/README.md says how such a corpus is used"
[[ -e $root/data/mini/en-de ]] || python "$root/examples/mini/make_corpus.py" "$root/data/mini" --langs de fr es
if [[ $name != smoke ]]; then bash "$root/examples/study/backbones.sh"; fi
if [[ $name == digits ]]; then bash "$root/examples/study/backbones.sh" "$digits"; fi
lst study "$study" "${@:2}"
