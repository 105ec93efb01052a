#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Train twice, on the dynamic model and on the same model compiled to a static graph: every loss must be the same.
#
#   bash test_tipc/test_train_dy2static_python.sh test_tipc/configs/CaiT/train_infer_python_51.txt
#
# The file has the 51-line form with trainers norm_train and to_static_train. Mode lite_train_lite_infer, on the first
# item of its gpu_list. Writes test_tipc/output/<model_name>/dy2static.
set -euo pipefail
# shellcheck source=test_tipc/common_func.sh
source "$(dirname "${BASH_SOURCE[0]}")/common_func.sh"
# shellcheck source=test_tipc/forms.sh
source "$(dirname "${BASH_SOURCE[0]}")/forms.sh"
# shellcheck source=test_tipc/training.sh
source "$(dirname "${BASH_SOURCE[0]}")/training.sh"

[ $# -eq 1 ] || die "usage: bash $0 CONFIG"
MODE=lite_train_lite_infer
begin "$1" 51
report_every_step norm_train
report_every_step to_static_train
there "$(line_of data)" "${given[data]}"
find_python
probe_paddle
start_report "test_tipc/output/$model_name/dy2static"
export FLAGS_cudnn_deterministic=True
split "$(value 4)"
gpu=${items[0]}
list device
device=${items[0]}
if train "$gpu" "$device" null norm_train && dynamic=$folder.log && train "$gpu" "$device" null to_static_train; then
    run_step 'compare losses' "$LOG_PATH/compare_losses.log" "$python test_tipc/compare_losses.py\
$(argument --dynamic "$dynamic")$(argument --static "$folder.log")" || true
fi
finish
