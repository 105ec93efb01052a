#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Train, evaluate, predict, export and infer as a configuration file says, and check every step.
#
#   bash test_tipc/test_train_inference_python.sh test_tipc/configs/CaiT/train_infer_python.txt 'lite_train_lite_infer'
#
# Modes: lite_train_lite_infer, lite_train_whole_infer, whole_train_whole_infer, whole_infer, benchmark_train.
# Writes test_tipc/output/<model_name>/<mode>: the logs, results_python.log (a line per step) and summary.txt. The exit
# status is 0 when every step passed, 1 when one failed, 2 when the file, the mode or the data are not as they must be.
# PYTHON=<interpreter> takes the place of the file's line 3.
set -euo pipefail
# shellcheck source=test_tipc/common_func.sh
source "$(dirname "${BASH_SOURCE[0]}")/common_func.sh"
# shellcheck source=test_tipc/forms.sh
source "$(dirname "${BASH_SOURCE[0]}")/forms.sh"
# shellcheck source=test_tipc/inference.sh
source "$(dirname "${BASH_SOURCE[0]}")/inference.sh"

# launch GPU_ITEM: how to train on an item of gpu_list. Sets `launcher` (what stands before the program), `cards` (what
# training sees), `card` (what the later steps see), `nodes` (machines) and `why` (it cannot be run here, or nothing).
# Without GPUs one process, or as many as the item names, train on the CPU.
launch() {
    local ips='' ids=$1
    case $ids in *';'*) ips=${ids%%;*}; ids=${ids#*;} ;; esac
    local count
    count=$(commas "$ids")
    nodes=$(commas "$ips")
    launcher=
    cards=$ids
    card=${ids%%,*}
    why=
    [ "$ids" != -1 ] || { cards=''; card=''; return; }
    if [ "$gpus" -eq 0 ]; then
        [ "$nodes" -eq 1 ] || why="needs $nodes machines with GPUs"
        [ "$count" -eq 1 ] || launcher="-m paddle.distributed.launch --nproc_per_node=$count"
    else
        [ "$count" -le "$gpus" ] || why="needs $count GPUs, found $gpus"
        [ "$count$nodes" = 11 ] || launcher="-m paddle.distributed.launch$(argument --ips "$ips") --gpus=$ids"
    fi
}

# commas TEXT: how many items its commas part it into.
commas() { local only=${1//[^,]/}; printf '%s' "$((${#only} + 1))"; }

# see CARDS: what the next steps see, where there are GPUs to choose from.
see() { [ "$gpus" -eq 0 ] || [ -z "$1" ] || export CUDA_VISIBLE_DEVICES="$1"; }

# trained FOLDER LOG: it holds the weights and a loss was reported, always a number.
trained() {
    has_files "$1" "${given[weights]}"
    finite_losses "$2"
}

# train_leg GPU_ITEM DEVICE AUTOCAST TRAINER: one combination, from training to the last comparison.
train_leg() {
    local gpu=$1 device=$2 autocast=$3 trainer=$4 number leg tag folder log weights amp='' mixed=False
    launch "$gpu"
    number=$(trainer_line "$trainer")
    leg=${trainer}_gpus_${gpu#*;}
    tag=_gpus_${gpu#*;}
    [ "$form" = 32 ] || leg=${leg}_autocast_$autocast
    [ "$nodes" -eq 1 ] || { leg=${leg}_nodes_$nodes; tag=${tag}_nodes_$nodes; }
    [ "$trainer" = norm_train ] || tag=${tag}_$trainer
    case $autocast in
        null | fp32) ;;
        amp) amp=True; mixed=True; tag=${tag}_autocast_amp ;;
    esac
    [ "$trainer" != amp_train ] || mixed=True
    [ "$mixed$gpus" != True0 ] || why='mixed precision needs a GPU'
    ! empty "$(value "$number")" || why="line $number is null"
    if [ -n "$why" ]; then
        not_run "train $leg" "$why"
        return
    fi

    folder=$LOG_PATH/$leg
    log=$folder.log
    weights=$folder/${given[weights]}
    [ -z "$launcher" ] || launcher="$launcher$(argument --log_dir "$folder/launch") "
    case $device in False | cpu) export CUDA_VISIBLE_DEVICES= ;; *) see "$cards" ;; esac
    run_step "train $leg" "$log" "$python $launcher$(value "$number")$(flag device "$device")$(flag output "$folder")\
$(flag epochs "${given[epochs]}")$(flag pretrained "${given[pretrained]}")$(flag batch "${given[batch]}")\
$(flag data "${given[data]}")$(flag autocast "$amp")" trained "$folder" "$log" || {
        not_run "all else of $leg" 'training failed'
        return
    }
    [ "$MODE" != benchmark_train ] || return 0
    [ "$device" = False ] || see "$card"

    if ! empty "${given[eval]}"; then
        log=${folder}_eval.log
        run_step "eval $leg" "$log" "$python ${given[eval]}$(flag device "$device")$(flag pretrained "$weights")\
$(flag eval_data "${given[eval_data]}")$(flag output "$folder/eval")" finite_losses "$log" || true
    fi
    local command inner model_dir=$folder
    command=$(value "$((first_export + number - first_trainer))")
    ! empty "$command" || return 0
    run_step "export $leg" "${folder}_export.log" "$python $command$(flag export_weights "$weights")\
$(flag save_infer "$folder")" exported "$folder" || {
        not_run "infer $leg" 'export failed'
        return
    }
    inner=${given[inference_dir]}
    empty "$inner" || model_dir=$folder/$inner
    predict "$leg" "$folder/config.yaml" "$weights" "$folder/pred"
    infer_all "$model_dir" "$tag" False
}

train_all() {
    local -a cards_list devices casts trainers
    local index autocast trainer visible=${CUDA_VISIBLE_DEVICES-unset}
    split "$(value 4)"; cards_list=("${items[@]}")
    list device; devices=("${items[@]}")
    list autocast; casts=("${items[@]}")
    list trainer; trainers=("${items[@]}")
    for index in "${!cards_list[@]}"; do
        for autocast in "${casts[@]}"; do
            for trainer in "${trainers[@]}"; do
                train_leg "${cards_list[index]}" "${devices[index]-${devices[-1]}}" "$autocast" "$trainer"
                if [ "$visible" = unset ]; then unset CUDA_VISIBLE_DEVICES; else export CUDA_VISIBLE_DEVICES="$visible"; fi
            done
        done
    done
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
$(flag export_weights "$weights")$(flag save_infer "$folder")" exported "$folder" || {
                not_run "infer infer_$index" 'export failed'
                continue
            }
            settings=$(dirname "$weights")/config.yaml
            [ -f "$settings" ] || settings=$(sed -nE 's/.* --?(cfg|config_dir)[= ]([^ ]+).*/\2/p' <<< "$command ")
            predict "infer_$index" "$settings" "$weights" "$folder/pred"
        fi
        infer_all "$folder" "_model_$index" "${kinds[index]-False}"
    done
}

# there NUMBER PATH: the data that line NUMBER names is there.
there() {
    empty "$2" || compgen -G "$2*" > /dev/null \
        || die "$config, line $1: $2 is not there; run bash test_tipc/prepare.sh $config $MODE first"
}

[ $# -eq 2 ] || die "usage: bash $0 CONFIG MODE"
MODE=$2
read_config "$(realpath -m -- "$1")"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
config=$(realpath -m --relative-to=. -- "$config")
check_mode "$MODE" "${MODES[@]}"
read_form
if [ "$MODE" = whole_infer ]; then
    list whole_model
    for model in "${items[@]}"; do there "${at[whole_model]}" "$model"; done
else
    there "${at[data]}" "${given[data]}"
fi
there "${at[images]}" "$pictures"
find_python
count_gpus
start_report "test_tipc/output/$model_name/$MODE"
if [ "$MODE" = whole_infer ]; then whole_infer; else train_all; fi
finish
