# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2034,SC2153,SC2154  # the scripts share their variables
# Prediction with the dynamic model, inference with the exported one, and comparison image by image.
# Sourced after common_func.sh and forms.sh.

# predict LABEL CONFIG WEIGHTS FOLDER: the dynamic model's predictions into FOLDER; `reference` is their table, empty
# when there is none.
predict() {
    local label=$1 settings=$2 weights=$3 folder=$4
    reference=
    run_step "predict $label" "$LOG_PATH/${label}_pred.log" "$python CaiT/main_single_gpu.py\
$(argument -cfg "$settings")$(argument -pretrained "$weights")$(argument -data_path "$images")\
$(argument -output_dir "$folder") -pred" \
        has_files "$folder" predictions.csv || return 0
    reference=$folder/predictions.csv
}

# exported FOLDER: the folder has a model for Paddle Inference, in the format of Paddle 3 or of Paddle 2.
exported() {
    local graph=inference.json
    [ ! -e "$1/inference.pdmodel" ] || graph=inference.pdmodel
    has_files "$1" "$graph" inference.pdiparams
}

# classified LOG: the log has a class and a probability, and every probability is a number.
classified() {
    local found
    found=$(grep -o 'class_id: .*' "$1") || { printf '%s names no class' "$1"; return 0; }
    found=$(grep -vE '^class_id: [0-9]+, prob: [01]\.[0-9]+$' <<< "$found") || return 0
    printf '%s holds %s' "$1" "${found%%$'\n'*}"
}

# infer_all MODEL_DIR TAG QUANTISED: every device, engine setting, precision and batch size of the file; TAG goes into
# the log names, QUANTISED is True for an int8 model.
infer_all() {
    local model_dir=$1 tag=$2 quantized=$3 use_gpu engine threads precision batch
    local -a devices engines thread_counts precisions batches
    list use_gpu; devices=("${items[@]}")
    list precision; precisions=("${items[@]}")
    list infer_batch; batches=("${items[@]}")
    for use_gpu in "${devices[@]}"; do
        case $use_gpu in
            True) list trt; engines=("${items[@]}"); thread_counts=(null) ;;
            False) list mkldnn; engines=("${items[@]}"); list threads; thread_counts=("${items[@]}") ;;
        esac
        for engine in "${engines[@]}"; do
            for threads in "${thread_counts[@]}"; do
                for precision in "${precisions[@]}"; do
                    for batch in "${batches[@]}"; do infer_once; done
                done
            done
        done
    done
}

# infer_once: one combination of infer_all, and its comparison with `reference`.
infer_once() {
    local kind=$precision name options why
    [ "$kind" != null ] || { kind=fp32; [ "$quantized" != True ] || kind=int8; }
    if [ "$use_gpu" = True ]; then
        name=gpu$tag$(part trt usetrt "$engine")
        options=$(flag trt "$engine")
    else
        name=cpu$tag$(part mkldnn usemkldnn "$engine")$(part threads threads "$threads")
        options=$(flag mkldnn "$engine")$(flag threads "$threads")
    fi
    name=${name}_precision_${kind}_batchsize_$batch
    why=$(obstacle "$kind")
    if [ -n "$why" ]; then
        not_run "infer $name" "$why"
        return 0
    fi
    local log=$LOG_PATH/python_infer_$name.log
    if ! run_step "infer $name" "$log" "$python ${given[inference]}$(flag use_gpu "$use_gpu")$options\
$(flag precision "$precision")$(flag infer_batch "$batch")$(flag model_dir "$model_dir")$(flag images "$images")\
$(flag benchmark "${given[benchmark]}")$(flag infer_extra "${given[infer_extra]}")\
$(flag infer_last "${given[infer_last]}")" classified "$log"; then
        not_run "compare $name" 'inference failed'
    else
        compare "compare $name" "$log" "$kind"
    fi
}

# compare STEP LOG PRECISION: compare the predictions in LOG with `reference`.
compare() {
    if [ -z "$reference" ]; then
        not_run "$1" 'there are no predictions of the dynamic model'
    else
        local log=${2##*/}
        log=$LOG_PATH/compare_${log#python_infer_}
        run_step "$1" "$log" "$python test_tipc/compare_results.py$(argument --gt_file "$reference")\
$(argument --log_file "$2")$(tolerance "$3")" || true
    fi
}

# part NAME LABEL VALUE: a piece of a log's name, where the form has the setting.
part() { [ -z "${at[$1]-}" ] || printf '_%s_%s' "$2" "$3"; }

# obstacle PRECISION: why this machine or this model cannot run the combination; nothing when it can.
obstacle() {
    if [ "$use_gpu" = True ] && [ "$gpus" -eq 0 ]; then
        printf 'this Paddle finds no GPU'
    elif [ "$use_gpu" = False ] && [ "$1" = fp16 ]; then
        printf 'fp16 needs a GPU'
    elif [ "$use_gpu" = True ] && [ "$engine" != True ] && [ "$1" != fp32 ]; then
        printf '%s on a GPU needs TensorRT' "$1"
    elif [ "$quantized" = True ] && [ "$1" != int8 ]; then
        printf 'the model is quantized'
    elif [ "$quantized" != True ] && [ "$1" = int8 ]; then
        printf 'the model is not quantized'
    fi
}

# tolerance PRECISION: the allowed difference of a probability from the dynamic model's, and for which fraction of the
# images. fp32 may differ by the tolerance of the export, 1e-5 of the largest logit, at logits up to a hundred.
tolerance() {
    case $1 in
        fp32) printf -- ' --atol=1e-6 --rtol=1e-3' ;;
        int8) printf -- ' --atol=0.1 --rtol=0 --fraction=0.98' ;;
        *) printf -- ' --atol=2e-2 --rtol=0' ;;
    esac
}
