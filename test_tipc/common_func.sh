# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2034,SC2153,SC2154  # the scripts share their variables
# Common functions of the certification scripts: reading a configuration file, running steps, reporting them.
# Sourced by the other scripts, which change to the repository root first.

# All modes on one line: the documents' test reads it.
MODES=(lite_train_lite_infer lite_train_whole_infer whole_train_whole_infer whole_infer benchmark_train paddle2onnx_infer)

die() {  # die MESSAGE: one line, status 2
    printf 'error: %s\n' "$1" >&2
    exit 2
}

# ---------------------------------------------------------------- the configuration file

# read_config FILE: its lines into `lines`, numbered from 1. Every line is key:value, ## or ===title===.
read_config() {
    config=$1
    [ -f "$config" ] || die "$config: no such configuration file"
    mapfile -t -O 1 lines < <(tr -d '\r' < "$config")
    local number
    for number in "${!lines[@]}"; do
        case ${lines[number]} in
            '##'* | '=='*) ;;
            '') die "$config, line $number: found a blank line, expected key:value, ## or ===title===" ;;
            *:*:*) die "$config, line $number: found a second ':' in '${lines[number]}', a value cannot hold one" ;;
            *:*) ;;
            *) die "$config, line $number: found '${lines[number]}', expected key:value" ;;
        esac
    done
}

# expect NUMBER KEY: line NUMBER has this key.
expect() {
    case ${lines[$1]-nothing} in "$2":*) return 0 ;; esac
    die "$config, line $1: found '${lines[$1]-nothing}', expected $2:… (is a line missing, or one too many?)"
}

expect_title() {  # expect_title NUMBER TITLE
    case ${lines[$1]-nothing} in ==*"$2"==*) return 0 ;; esac
    die "$config, line $1: found '${lines[$1]-nothing}', expected ===$2==="
}

key() { printf '%s' "${lines[$1]%%:*}"; }

value() { printf '%s' "${lines[$1]#*:}"; }

# mode_value NUMBER: the value of line NUMBER in this mode, of `mode=value|mode=value` or of a plain `value`. Fails
# where the line has other modes only.
mode_value() {
    local all item mode plain=yes
    all=$(value "$1")
    while IFS= read -r -d '|' item; do
        for mode in "${MODES[@]}"; do [ "${item%%=*}" != "$mode" ] || [ "$item" = "$mode" ] || plain=no; done
        [ "${item%%=*}" != "$MODE" ] || { printf '%s' "${item#*=}"; return 0; }
    done <<< "$all|"
    [ $plain = yes ] && printf '%s' "$all"
}

# split TEXT: the items between its bars into `items`.
split() { IFS='|' read -r -a items <<< "$1"; }

empty() { [ -z "${1// /}" ] || [ "$1" = null ]; }

# word TEXT: TEXT as one word of a command line, quoted only where the shell would split it.
word() { if [[ $1 =~ ^[A-Za-z0-9_./,:=@%+-]+$ ]]; then printf '%s' "$1"; else printf '%q' "$1"; fi; }

# argument KEY VALUE: ` KEY=VALUE` for a command line, nothing where either is null or blank.
argument() { empty "$1" || empty "$2" || printf ' %s=%s' "$1" "$(word "$2")"; }

# one_of WHAT FOUND ALLOWED…: FOUND is one of ALLOWED.
one_of() {
    local what=$1 found=$2 allowed
    shift 2
    for allowed in "$@"; do [ "$found" != "$allowed" ] || return 0; done
    die "$what: found '$found', expected one of $*"
}

# begin CONFIG FORM…: go to the repository's root, read the file and check it against the forms and $MODE.
begin() {
    local file
    file=$(realpath -m -- "$1")
    cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
    read_config "$(realpath -m --relative-to=. -- "$file")"
    shift
    read_form "$@"
}

# ---------------------------------------------------------------- the machine

# find_python: the interpreter into `python`: $PYTHON, else the one that line 3 names, as the user's shell finds it.
find_python() {
    python=${PYTHON:-$(value 3)}
    command -v "$python" > /dev/null || die "$python: no such interpreter; activate its environment or set PYTHON"
    python=$(word "$python")
}

# probe_paddle: how many GPUs this Paddle can use, its version and its commit into `gpus`, `frame_version` and
# `frame_commit`.
probe_paddle() {
    local code output cuda
    code='import paddle as p
print("gpus:", p.device.cuda.device_count(), p.is_compiled_with_cuda(), p.__version__, p.version.commit)'
    if ! output=$(eval "$python -c $(word "$code")" 2>&1); then
        die "$python: cannot import paddle ($(tail -n 1 <<< "$output")); activate its environment or set PYTHON"
    fi
    read -r _ gpus cuda frame_version frame_commit < <(grep '^gpus: ' <<< "$output")
    # The launcher of a CPU build assumes GPUs if this variable is set, even to an empty string.
    [ "$cuda" = True ] || unset CUDA_VISIBLE_DEVICES
}

# ---------------------------------------------------------------- steps and their report

# start_report FOLDER: create FOLDER; an existing one is moved to FOLDER.previous.
start_report() {
    LOG_PATH=$1
    status_log=$LOG_PATH/results_python.log
    if [ -e "$LOG_PATH" ]; then
        rm -rf "$LOG_PATH.previous"
        mv "$LOG_PATH" "$LOG_PATH.previous"
    fi
    mkdir -p "$LOG_PATH"
    : > "$status_log"
    rows=("step|seconds|status|log")
    runs=0
    failures=0
    trap 'printf "\ninterrupted\n" >&2; exit 130' INT TERM
}

row() { rows+=("$1|$2|$3|${4##*/}"); }

# run_step NAME LOG COMMAND [CHECK ARGUMENT…]: run COMMAND, its output into LOG and on the screen. The step passes
# when the command's status is 0 and CHECK prints nothing; CHECK prints what is wrong with the result.
run_step() {
    local name=$1 log=$2 command=$3 begun=$SECONDS status problem=
    shift 3
    printf '\n%s\n' "$command"
    eval "$command" < /dev/null 2>&1 | tee "$log"
    status=${PIPESTATUS[0]}
    runs=$((runs + 1))
    if [ "$status" -ne 0 ]; then
        problem="exit status $status"
    elif [ $# -gt 0 ]; then
        problem=$("$@")
    fi
    if [ -z "$problem" ]; then
        report "Run successfully with command - $model_name - $command - $log"
        row "$name" "$((SECONDS - begun))" passed "$log"
        return 0
    fi
    printf '%s: %s\n' "$name" "$problem" | tee -a "$log"
    report "Run failed with command - $model_name - $command - $log"
    row "$name" "$((SECONDS - begun))" "FAILED ($problem)" "$log"
    failures=$((failures + 1))
    return 1
}

# report TEXT: a status line, in yellow, in the format of the certification's log readers.
report() { printf '\033[33m %s ! \033[0m\n' "$1" | tee -a "$status_log"; }

# not_run NAME WHY: a step that this machine cannot run, or whose input a failed step did not make.
not_run() { row "$1" - "not run: $2" -; }

# finish: the summary and, as status, whether every step that was run has passed and at least one was run.
finish() {
    local passed=$((runs - failures))
    {
        printf '\nSummary of %s in mode %s, logs in %s\n' "$config" "$MODE" "$LOG_PATH"
        printf '%s\n' "${rows[@]}" | aligned
        printf 'total time: %s s; %s steps passed, %s failed, %s not run\n' \
            "$SECONDS" "$passed" "$failures" "$((${#rows[@]} - 1 - runs))"
    } | tee "$LOG_PATH/summary.txt"
    [ "$runs" -gt 0 ] || die "$config: nothing was run, so nothing is certified"
    [ "$failures" -eq 0 ] || exit 1
}

# aligned: rows of cells between bars, as columns.
aligned() {
    awk -F '|' '
        { for (i = 1; i <= NF; i++) { cell[NR, i] = $i; if (length($i) > width[i]) width[i] = length($i) } }
        END { for (r = 1; r <= NR; r++) {
            line = ""
            for (i = 1; i <= NF; i++) line = line sprintf("%-" width[i] + 2 "s", cell[r, i])
            sub(/ +$/, "", line); print line } }'
}

# ---------------------------------------------------------------- checks of a step's results

# has_files FOLDER FILE…: each exists and is not empty.
has_files() {
    local folder=$1 file
    shift
    for file in "$@"; do
        [ -s "$folder/$file" ] || { printf '%s was not written' "$file"; return 0; }
    done
}

# finite_losses LOG: the log reports losses, and all are finite.
finite_losses() {
    local found
    found=$(grep -o '[Ll]oss: [^ ,]*' "$1") || { printf '%s reports no loss' "$1"; return 0; }
    found=$(grep -vE ': [-+]?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?$' <<< "$found") || return 0
    printf '%s reports %s' "$1" "${found%%$'\n'*}"
}
