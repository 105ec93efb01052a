#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Create or check the data and models that a configuration file needs in a mode. Offline and idempotent.
#
#   bash test_tipc/prepare.sh test_tipc/configs/CaiT/train_infer_python.txt 'lite_train_lite_infer'
#
# Created when missing: dataset/lite_data, 16 training and 16 validation images of the embedded digits in ImageNet
# layout; dataset/digits, all 1,797 of them; output/digits, the small CaiT trained on them (minutes), and
# output/digits/infer, its export. Other datasets and weights are the user's: their presence is checked, they are never
# changed.
# Modes: those of test_train_inference_python.sh, and paddle2onnx_infer.
set -euo pipefail
# shellcheck source=test_tipc/common_func.sh
source "$(dirname "${BASH_SOURCE[0]}")/common_func.sh"
# shellcheck source=test_tipc/forms.sh
source "$(dirname "${BASH_SOURCE[0]}")/forms.sh"
IMAGES=16  # of each split

# make_digits FOLDER: all digits.
make_digits() { eval "$python CaiT/tools/make_digits.py --output=$(word "$1")"; }

# make_lite FOLDER: the lite data, created atomically. File names contain the class, so that they are unique.
make_lite() {
    local split list path class name
    mkdir -p "$(dirname "$1")"
    work=$(mktemp -d "$1.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    make_digits "$work/all" > "$work/log" || { cat "$work/log" >&2; die "$1: the digits could not be made"; }
    for split in train val; do
        list=$work/lite/${split}_list.txt
        mkdir -p "$work/lite"
        while read -r path class; do
            name=${path%%/*}/$class/${class}_${path##*/}
            mkdir -p "$work/lite/${name%/*}"
            cp "$work/all/$path" "$work/lite/$name"
            printf '%s %s\n' "$name" "$class"
        done < <(spaced "$work/all/${split}_list.txt") > "$list"
    done
    cut -d ' ' -f 1 "$work/lite/val_list.txt" > "$work/lite/test_list.txt"
    cp "$work/all/classes.txt" "$work/lite"
    chmod 755 "$work/lite"
    mv "$work/lite" "$1"
}

# spaced LIST: prints IMAGES of its lines, evenly spaced.
spaced() {
    awk -v lines="$(wc -l < "$1")" -v wanted="$IMAGES" \
        'int(NR * wanted / lines) > int((NR - 1) * wanted / lines)' "$1"
}

# embedded PATH: creates the part of the embedded dataset that PATH belongs to, if it is missing.
embedded() {
    case ${1#./}/ in
        dataset/lite_data/*) [ -e dataset/lite_data ] || make_lite dataset/lite_data ;;
        dataset/digits/*) [ -e dataset/digits/test_list.txt ] || make_digits dataset/digits ;;
        output/digits/*)
            embedded dataset/digits
            [ -e output/digits ] \
                || eval "$python CaiT/main_single_gpu.py -cfg=CaiT/configs/cait_digits.yaml -output_dir=output/digits"
            ;;
    esac
    case ${1#./}/ in
        output/digits/infer/)
            [ -e output/digits/infer ] || eval "$python CaiT/export_model.py -pretrained=output/digits/best.pdparams \
--save-inference-dir=output/digits/infer"
            ;;
    esac
}

# present NUMBER PATH: the path of line NUMBER exists; it is created if it belongs to the embedded dataset.
present() {
    empty "$2" && return 0
    embedded "$2"
    compgen -G "$2*" > /dev/null || die "$config, line $1: $2: not there; put it there or name another"
}

# lists NUMBER FOLDER: the dataset of line NUMBER exists and has its list files.
lists() {
    local folder=${2%/} list
    for list in train_list.txt val_list.txt; do
        [ -s "$folder/$list" ] || die "$folder/$list: missing; write it with $python -m CaiT.tools.make_lists $folder"
        printf '%s: %s lines\n' "$folder/$list" "$(wc -l < "$folder/$list")"
    done
}

[ $# -eq 2 ] || die "usage: bash $0 CONFIG MODE"
MODE=$2
one_of mode "$MODE" "${MODES[@]}"
begin "$1" 32 51 ptq paddle2onnx
find_python
present "$(line_of data)" "${given[data]}"
empty "${given[data]}" || lists "$(line_of data)" "${given[data]}"
# The official scripts pass the lines of the lite data in every mode.
[ -z "${from[data]-}" ] || present "$lite_line" "$(value "$lite_line")"
if [ "$MODE" = whole_infer ] || [ "$form" = paddle2onnx ]; then
    list whole_model
    for model in "${items[@]}"; do present "${at[whole_model]-}" "$model"; done
fi
[ "$form" != ptq ] || present "${at[export_weights]}" "${given[export_weights]}"
present "${at[calibration]-}" "${given[calibration]}"
present "${at[paddle_model]-}" "${given[paddle_model]}"
present "$(line_of images)" "$images"
