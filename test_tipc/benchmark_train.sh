#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Training speed: train as a configuration file says, once per batch size and precision, and report images per second.
#
#   bash test_tipc/benchmark_train.sh test_tipc/configs/CaiT/train_infer_python.txt benchmark_train
#   bash test_tipc/benchmark_train.sh test_tipc/configs/CaiT/train_infer_python_51.txt benchmark_train \
#       dynamic_bs64_fp32_DP_N1C1
#
# A run is <dynamic|dynamicTostatic>_bs<images per card>_<fp32|fp16>_<mode>_N1C<cards>. Without one, the batch sizes
# and precisions of the file's train_benchmark_params are run, or the one batch size of mode benchmark_train.
# BENCHMARK_LOG_DIR (default test_tipc/output/<model_name>/benchmark) gets train_log, index and benchmark_log.
# BENCHMARK_ROOT: Paddle's benchmark tools, whose scripts/analysis.py then reads the logs in place of ours.
set -euo pipefail
# shellcheck source=test_tipc/common_func.sh
source "$(dirname "${BASH_SOURCE[0]}")/common_func.sh"
# shellcheck source=test_tipc/forms.sh
source "$(dirname "${BASH_SOURCE[0]}")/forms.sh"
# shellcheck source=test_tipc/training.sh
source "$(dirname "${BASH_SOURCE[0]}")/training.sh"
SKIP_STEPS=2  # the first steps of a run, which also compile and fill caches

benchmark_section() { [[ ${lines[52]-} = *train_benchmark_params* ]]; }

# wanted_runs: the runs of the file into `runs_wanted`.
wanted_runs() {
    local -a sizes precisions=(fp32)
    local size precision
    sizes=("${given[batch]}")
    if benchmark_section; then
        expect 53 batch_size
        expect 54 fp_items
        expect 55 epoch
        split "$(value 53)"; sizes=("${items[@]}")
        split "$(value 54)"; precisions=("${items[@]}")
    fi
    runs_wanted=()
    for precision in "${precisions[@]}"; do
        for size in "${sizes[@]}"; do runs_wanted+=("dynamic_bs${size}_${precision}_DP_N1C1"); done
    done
}

# set_line NUMBER VALUE: the line's value.
set_line() { lines[$1]=$(key "$1"):$2; }

# write_config FILE: the configuration of one run: its cards, precision, batch size and trainer.
write_config() {
    (
        report_every_step "$trainer"
        set_line 4 "$(seq -s , 0 $((cards_wanted - 1)))"
        set_line "${at[batch]}" "$size"
        set_line "${at[trainer]}" "$trainer"
        [ "$form" = 32 ] || set_line "${at[autocast]}" "$([ "$precision" = fp32 ] && echo null || echo amp)"
        ! benchmark_section || set_line "${at[epochs]}" "$(value 55)"
        printf '%s\n' "${lines[@]}"
    ) > "$1"
}

# benchmark RUN
benchmark() {
    local modeltype size precision run_mode devices trainer name mark='' cards_wanted begun=$SECONDS
    [[ $1 =~ ^(dynamic|dynamicTostatic)_bs([0-9]+)_(fp32|fp16|null)_([A-Za-z]+)_N1C([0-9]+)$ ]] \
        || die "run: found '$1', expected <dynamic|dynamicTostatic>_bs<n>_<fp32|fp16>_<mode>_N1C<n>"
    modeltype=${BASH_REMATCH[1]} size=${BASH_REMATCH[2]} precision=${BASH_REMATCH[3]/null/fp32}
    run_mode=${BASH_REMATCH[4]} cards_wanted=${BASH_REMATCH[5]} devices=N1C$cards_wanted
    trainer=norm_train
    [ "$modeltype" = dynamic ] || { trainer=to_static_train; mark=d2sT_; }
    name=CaiT_${model_name}_bs${size}_${precision}_${run_mode}_${devices}_$mark
    if [ "$precision$gpus" = fp160 ]; then
        not_run "train $1" 'mixed precision needs a GPU'
        return 0
    fi
    [ "$form" = 51 ] || [ "$precision$trainer" = fp32norm_train ] || die "run: '$1' needs a file of the 51-line form"
    write_config "$logs/${name%_}.txt"
    run_step "train $1" "$logs/train_log/${name}log" \
        "bash test_tipc/test_train_inference_python.sh $(word "$logs/${name%_}.txt") benchmark_train" || return 0
    export model_run_time=$((SECONDS - begun))
    run_step "speed $1" "$logs/index/${name}speed_log" "$python $analysis\
$(argument --filename "$logs/train_log/${name}log")$(argument --speed_log_file "$logs/index/${name}speed")\
$(argument --model_name "${model_name}_bs${size}_${precision}_$run_mode")$(argument --base_batch_size "$size")\
$(argument --run_mode "$run_mode")$(argument --fp_item "$precision") --keyword=ips: --skip_steps=$SKIP_STEPS\
$(argument --device_num "$devices") --speed_unit=images/s --convergence_key=loss:" \
        has_files "$logs/index" "${name}speed" || return 0
    cat "$logs/index/${name}speed" >> "$logs/benchmark_log/results.log"
}

[ $# -eq 2 ] || [ $# -eq 3 ] || die "usage: bash $0 CONFIG benchmark_train [RUN]"
MODE=$2
one_of mode "$MODE" benchmark_train
begin "$1" 32 51
there "$(line_of data)" "${given[data]}"
find_python
probe_paddle
start_report "test_tipc/output/$model_name/benchmark"
logs=${BENCHMARK_LOG_DIR:-$LOG_PATH}
mkdir -p "$logs/train_log" "$logs/index" "$logs/benchmark_log"
analysis=test_tipc/analyse_speed.py
[ -z "${BENCHMARK_ROOT-}" ] || analysis=$(word "$BENCHMARK_ROOT/scripts/analysis.py")
model_branch=$(git symbolic-ref --short HEAD 2> /dev/null || true)
model_commit=$(git rev-parse HEAD 2> /dev/null || true)
export model_branch model_commit frame_version frame_commit
wanted_runs
[ $# -eq 2 ] || runs_wanted=("$3")
for run in "${runs_wanted[@]}"; do benchmark "$run"; done
finish
