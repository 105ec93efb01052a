#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Make, or look for, the data that a configuration file needs in a mode. Offline; running it again changes nothing.
#
#   bash test_tipc/prepare.sh test_tipc/configs/CaiT/train_infer_python.txt 'lite_train_lite_infer'
#
# dataset/lite_data: 16 training and 16 validation pictures of the embedded digits, in ImageNet layout. dataset/digits:
# all 1,797 of them. Other data sets, and weights, are the user's own: they are looked for and never touched.
set -euo pipefail
# shellcheck source=test_tipc/common_func.sh
source "$(dirname "${BASH_SOURCE[0]}")/common_func.sh"
# shellcheck source=test_tipc/forms.sh
source "$(dirname "${BASH_SOURCE[0]}")/forms.sh"
PICTURES=16  # of each split

# make_digits FOLDER: all digits.
make_digits() { eval "$python CaiT/tools/make_digits.py --output=$(word "$1")"; }

# make_lite FOLDER: the lite data, whole or not at all. A picture's name carries its class: no two have the same.
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

# spaced LIST: PICTURES of its lines, evenly spaced.
spaced() {
    awk -v lines="$(wc -l < "$1")" -v wanted="$PICTURES" \
        'int(NR * wanted / lines) > int((NR - 1) * wanted / lines)' "$1"
}

# embedded PATH: makes the embedded data that PATH lies in, where it is not there yet.
embedded() {
    case ${1#./}/ in
        dataset/lite_data/*) [ -e dataset/lite_data ] || make_lite dataset/lite_data ;;
        dataset/digits/*) [ -e dataset/digits/test_list.txt ] || make_digits dataset/digits ;;
    esac
}

# lists NUMBER FOLDER: the data set of line NUMBER is there, with its lists.
lists() {
    local folder=${2%/} list
    [ -d "$folder" ] || die "$config, line $1: $folder: no such folder; unpack the data set there"
    for list in train_list.txt val_list.txt; do
        [ -s "$folder/$list" ] || die "$folder/$list: missing; write it with $python -m CaiT.tools.make_lists $folder"
        printf '%s: %s lines\n' "$folder/$list" "$(wc -l < "$folder/$list")"
    done
}

[ $# -eq 2 ] || die "usage: bash $0 CONFIG MODE"
MODE=$2
read_config "$(realpath -m -- "$1")"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
config=$(realpath -m --relative-to=. -- "$config")
check_mode "$MODE" "${MODES[@]}"
read_form
find_python
folder=${given[data]}
embedded "$folder"
embedded "$pictures"
empty "$folder" || lists "${at[data]}" "$folder"
if [ "$MODE" = whole_infer ]; then
    list whole_model
    for model in "${items[@]}"; do
        compgen -G "$model*" > /dev/null \
            || die "$config, line ${at[whole_model]}: $model: no such weights; train a model or put its checkpoint there"
    done
fi
empty "$pictures" || [ -e "$pictures" ] || die "$config, line ${at[images]}: $pictures: no such picture, list or folder"
