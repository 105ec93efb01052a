# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2034,SC2153,SC2154  # the scripts share their variables
# Training legs: a leg is one item of gpu_list, one precision and one trainer. Sourced after common_func.sh and
# forms.sh.

# launch GPU_ITEM: how to train on an item of gpu_list. Sets `launcher` (the words before the program), `cards` (visible
# in training), `card` (visible in later steps), `nodes` (machines) and `why` (the reason it cannot be run here, if
# any). Without GPUs one process, or as many as the item has devices, train on the CPU.
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
    [ "$ids" != -1 ] || { cards=''; card=''; return 0; }
    if [ "$gpus" -eq 0 ]; then
        [ "$nodes" -eq 1 ] || why="needs $nodes machines with GPUs"
        [ "$count" -eq 1 ] || launcher="-m paddle.distributed.launch --nproc_per_node=$count"
    else
        [ "$count" -le "$gpus" ] || why="needs $count GPUs, found $gpus"
        [ "$count$nodes" = 11 ] || launcher="-m paddle.distributed.launch$(argument --ips "$ips") --gpus=$ids"
    fi
}

# commas TEXT: the number of its comma-separated items.
commas() { local only=${1//[^,]/}; printf '%s' "$((${#only} + 1))"; }

# see CARDS: set the GPUs visible to the next steps, if there are GPUs.
see() { [ "$gpus" -eq 0 ] || [ -z "$1" ] || export CUDA_VISIBLE_DEVICES="$1"; }

# first_machine GPU_ITEM: whether this is the first machine of the item, which writes the weights.
first_machine() {
    case $1 in *';'*) hostname -I | grep -qwF -- "${1%%[,;]*}" ;; esac
}

# trained GPU_ITEM: the leg's weights exist and all reported losses are finite.
trained() {
    local missing=
    ! first_machine "$1" || missing=$(has_files "$folder" "${given[weights]}")
    if [ -n "$missing" ]; then printf '%s' "$missing"; else finite_losses "$folder.log"; fi
}

# report_every_step TRAINER: change its command to report loss and speed at every step.
report_every_step() {
    local number command
    number=$(trainer_line "$1")
    command=$(value "$number")
    case $command in
        *' -opts '*) command=${command/ -opts / -opts REPORT_FREQ 1 } ;;
        *) command="$command -opts REPORT_FREQ 1" ;;
    esac
    lines[number]=${lines[number]%%:*}:$command
}

# train GPU_ITEM DEVICE AUTOCAST TRAINER: the leg's training. Sets `leg` (its name), `tag` (its part of the names of
# inference logs), `folder`, `weights` and `number` (of its trainer's line). Fails where it was not run or has failed.
train() {
    local gpu=$1 device=$2 autocast=$3 trainer=$4 amp=null
    launch "$gpu"
    number=$(trainer_line "$trainer")
    leg=${trainer}_gpus_${gpu#*;}
    tag=_gpus_${gpu#*;}
    [ "$form" = 32 ] || leg=${leg}_autocast_$autocast
    [ "$nodes" -eq 1 ] || { leg=${leg}_nodes_$nodes; tag=${tag}_nodes_$nodes; }
    [ "$trainer" = norm_train ] || tag=${tag}_$trainer
    case $autocast in amp | True) amp=True; tag=${tag}_autocast_amp ;; esac
    case $gpus$amp$trainer in 0True* | 0*amp_train) why='mixed precision needs a GPU' ;; esac
    ! empty "$(value "$number")" || why="line $number is null"
    if [ -n "$why" ]; then
        not_run "train $leg" "$why"
        return 1
    fi
    folder=$LOG_PATH/$leg
    weights=$folder/${given[weights]}
    [ -z "$launcher" ] || launcher="$launcher$(argument --log_dir "$folder/launch") "
    case $device in False | cpu) export CUDA_VISIBLE_DEVICES= ;; *) see "$cards" ;; esac
    run_step "train $leg" "$folder.log" "$python $launcher$(value "$number")$(flag device "$device")\
$(flag output "$folder")$(flag epochs "${given[epochs]}")$(flag pretrained "${given[pretrained]}")\
$(flag batch "${given[batch]}")$(flag data "${given[data]}")$(flag autocast "$amp")" trained "$gpu" || {
        not_run "all else of $leg" 'training failed'
        return 1
    }
    case $device in False | cpu) ;; *) see "$card" ;; esac
}

# train_all [COMMAND]: every leg of the file; COMMAND follows each that has trained, with the leg's device.
train_all() {
    local -a cards_list devices casts trainers
    local index device autocast trainer visible=${CUDA_VISIBLE_DEVICES-unset}
    split "$(value 4)"; cards_list=("${items[@]}")
    list device; devices=("${items[@]}")
    list autocast; casts=("${items[@]}")
    list trainer; trainers=("${items[@]}")
    for index in "${!cards_list[@]}"; do
        device=${devices[index]-${devices[-1]}}
        for autocast in "${casts[@]}"; do
            for trainer in "${trainers[@]}"; do
                ! train "${cards_list[index]}" "$device" "$autocast" "$trainer" || "$@" "${cards_list[index]}" "$device"
                export CUDA_VISIBLE_DEVICES="$visible"
                [ "$visible" != unset ] || unset CUDA_VISIBLE_DEVICES
            done
        done
    done
}
