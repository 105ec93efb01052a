#!/usr/bin/env bash
# The reduced suite with other versions of Paddle: bash tests/versions.sh [VERSION …]. One environment per version, in
# VERSIONS_DIR (default .venv-versions), kept for the next time. Prints a line per version; status 1 when one fails.
set -uo pipefail
cd "$(dirname "$0")/.."
folder=${VERSIONS_DIR:-.venv-versions}
tests=(tests/models/test_goldens.py tests/accelerate tests/weights/test_translate.py
       tests/deploy/test_export.py tests/deploy/test_predict_inputs.py tests/deploy/test_paddle2.py
       tests/training/test_config_of_weights.py tests/training/test_resume.py tests/training/test_to_static.py)
failed=0
for version in "${@:-3.0.0 3.1.1 3.2.2 3.3.1}"; do for one in $version; do
    python=$folder/$one/bin/python
    if [ ! -e "$folder/$one/.ready" ]; then
        { "${PYTHON:-python3}" -m venv "$folder/$one" &&
            "$python" -m pip install --quiet --disable-pip-version-check "paddlepaddle==$one" -e '.[test]' &&
            touch "$folder/$one/.ready"; } || { echo "paddle $one: cannot be installed"; failed=1; continue; }
    fi
    started=$SECONDS
    if PYTHONPATH=$PWD "$python" -m pytest -q -p no:cacheprovider "${tests[@]}" > "$folder/$one.log" 2>&1; then
        status=passed
    else
        status="FAILED, see $folder/$one.log" failed=1
    fi
    echo "paddle $one, $("$python" --version): $status, $((SECONDS - started)) s"
done; done
exit $failed
