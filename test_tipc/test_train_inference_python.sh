#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Train, evaluate, predict, export and infer as a configuration file says, and check every step.
#
#   bash test_tipc/test_train_inference_python.sh test_tipc/configs/CaiT/train_infer_python.txt 'lite_train_lite_infer'
#
# Modes: lite_train_lite_infer, lite_train_whole_infer, whole_train_whole_infer, whole_infer, benchmark_train.
# Writes test_tipc/output/<model_name>/<mode>: the logs, results_python.log (a line per step) and summary.txt. The exit
# status is 0 when every step passed, 1 when one failed, 2 when the file, the mode or the data are not as they must be.
# PYTHON=<interpreter> takes the place of the file's line 3. A third argument after whole_infer names the GPU to use.
set -euo pipefail
# shellcheck source=test_tipc/common_func.sh
source "$(dirname "${BASH_SOURCE[0]}")/common_func.sh"
# shellcheck source=test_tipc/forms.sh
source "$(dirname "${BASH_SOURCE[0]}")/forms.sh"
# shellcheck source=test_tipc/training.sh
source "$(dirname "${BASH_SOURCE[0]}")/training.sh"
# shellcheck source=test_tipc/inference.sh
source "$(dirname "${BASH_SOURCE[0]}")/inference.sh"

# certify GPU_ITEM DEVICE: evaluate, export and infer with what the leg has trained.
certify() {
    local device=$2 command
    if ! first_machine "$1"; then
        not_run "all else of $leg" 'the first machine does it'
        return 0
    fi
    if ! empty "${given[eval]}"; then
        run_step "eval $leg" "${folder}_eval.log" "$python ${given[eval]}$(flag device "$device")\
$(flag pretrained "$weights")$(flag eval_data "${given[eval_data]}")$(flag output "$folder/eval")" \
            finite_losses "${folder}_eval.log" || true
    fi
    command=$(value "$((first_export + number - first_trainer))")
    ! empty "$command" || return 0
    run_step "export $leg" "${folder}_export.log" "$python $command$(flag export_weights "$weights")\
$(flag save_infer "$folder")" exported "$folder$inner" || {
        not_run "infer $leg" 'export failed'
        return 0
    }
    predict "$leg" "$folder/config.yaml" "$weights" "$folder/pred"
    infer_all "$folder$inner" "$tag" False
}

# whole_infer: each model of the list, exported first where the file says how.
whole_infer() {
    local -a models exports kinds
    local index folder weights command settings
    list whole_model; models=("${items[@]}")
    list whole_export; exports=("${items[@]}")
    list quant; kinds=("${items[@]}")
    for index in "${!models[@]}"; do
        weights=${models[index]}
        command=${exports[index]-null}
        folder=$LOG_PATH/infer_$index
        reference=
        if empty "$command"; then
            folder=$weights
        else
            run_step "export infer_$index" "$LOG_PATH/export_$index.log" "$python $command\
$(flag export_weights "$weights")$(flag save_infer "$folder")" exported "$folder$inner" || {
                not_run "infer infer_$index" 'export failed'
                continue
            }
            settings=$(dirname "$weights")/config.yaml
            [ -f "$settings" ] || settings=$(sed -nE 's/.* --?(cfg|config_dir)[= ]([^ ]+).*/\2/p' <<< "$command ")
            predict "infer_$index" "$settings" "$weights" "$folder/pred"
            folder=$folder$inner
        fi
        infer_all "$folder" "_model_$index" "${kinds[index]-False}"
    done
}

[ $# -eq 2 ] || [ "$#${2-}" = 3whole_infer ] || die "usage: bash $0 CONFIG MODE, or CONFIG whole_infer GPU"
MODE=$2
[ $# -eq 2 ] || export CUDA_VISIBLE_DEVICES="$3"
one_of mode "$MODE" lite_train_lite_infer lite_train_whole_infer whole_train_whole_infer whole_infer benchmark_train
begin "$1" 32 51
if [ "$MODE" = whole_infer ]; then
    list whole_model
    for model in "${items[@]}"; do there "${at[whole_model]}" "$model"; done
else
    there "$(line_of data)" "${given[data]}"
fi
there "$(line_of images)" "$images"
find_python
probe_paddle
inner=${given[inference_dir]}  # where in its folder the export program writes
if empty "$inner"; then inner=''; else inner=/$inner; fi
start_report "test_tipc/output/$model_name/$MODE"
case $MODE in
    whole_infer) whole_infer ;;
    benchmark_train) train_all true ;;
    *) train_all certify ;;
esac
finish
