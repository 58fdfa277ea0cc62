#!/usr/bin/env bash
# The figures of gpu.py and the checks of tests/gpu: at real sizes on a GPU; without one tiny, the
# checks on a pretended GPU (tests/gpu/pretended.py).
#
#   bash experiments/speed/gpu.sh [folder for gpu.json and checks.xml, default: runs/gpu]
#
# Wheels in .whl (`make gpu-wheels`) are added to what the machine has, only for this run.
set -uo pipefail
cd "$(dirname "$0")/../.."
folder=${1:-runs/gpu}
python=${PYTHON:-python3}
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1 PYTEST_DISABLE_PLUGIN_AUTOLOAD=1
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
if compgen -G '.whl/*.whl' >/dev/null; then
    "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir \
        --disable-pip-version-check --target "$site" .whl/*.whl || exit 1
    PYTHONPATH=$site:$PWD
fi
mkdir -p "$folder"
tiny=$("$python" -c 'import torch; print("" if torch.cuda.is_available() else "--tiny")') || exit 1
limit=210 # seconds for each of the two parts; what is done by then is kept
# Without a GPU the profiler would report that it finds none.
test -z "$tiny" || { limit=900 && export EDJE_PRETENDED_GPU=1 KINETO_LOG_LEVEL=99; }

# shellcheck disable=SC2086
timeout -s INT -k 10 $limit "$python" experiments/speed/gpu.py "$folder" $tiny
figures=$?
# Other versions warn about other things, so warnings are not errors here.
timeout -s INT -k 10 $limit "$python" -m pytest tests/gpu -m gpu -q -rs --durations=5 -p pytest_timeout -W default \
    --disable-warnings -o timeout=$limit --junit-xml="$folder/checks.xml"
checks=$?
echo "figures: exit status $figures, checks: exit status $checks (124: stopped after $limit s)"
exit $((checks || figures))
