# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2034,SC2153,SC2154  # the scripts share their variables
# The forms of a configuration file: the line of each setting. They are distinguished by their titles: the one in
# line 1, and for training the line of ===eval_params===. Sourced after common_func.sh.

declare -A at     # setting -> number of its line
declare -A given  # setting -> its value in this mode, null where the form has no such setting
declare -A from   # setting -> number of the line that its value is from, where that is another one
SETTINGS=(device autocast epochs output batch pretrained weights train_images data trainer eval eval_data save_infer
    export_weights inference_dir whole_model whole_export quant inference use_gpu mkldnn threads infer_batch trt
    precision model_dir images infer_extra benchmark infer_last quantize_gpu calibration calibration_count
    calibration_batch quantize convert paddle_model paddle_graph paddle_params onnx_file opset onnx_checker onnx_input)

# read_form ALLOWED…: parse the lines; `form` is 32 or 51 (training), ptq or paddle2onnx, and one of ALLOWED.
read_form() {
    local eval_line trainer
    case ${lines[1]-nothing} in
        *ptq_params*) form=ptq ;;
        *paddle2onnx_params*) form=paddle2onnx ;;
        *)
            expect_title 1 train_params
            eval_line=$(grep -n -m 1 '^==*eval_params=' "$config" | cut -d : -f 1 || true)
            case $eval_line in
                16) form=32 ;;
                23) form=51 ;;
                *) die "$config: found ===eval_params=== in line ${eval_line:-none}, expected line 16 (32-line form) \
or line 23 (51-line form)" ;;
            esac
            expect 4 gpu_list
            ;;
    esac
    one_of "$config, the form" "$form" "$@"
    expect 2 model_name
    expect 3 python
    case $form in 32) read_32 ;; 51) read_51 ;; ptq) read_ptq ;; paddle2onnx) read_paddle2onnx ;; esac
    model_name=$(value 2)
    read_settings
    allow use_gpu True False
    allow autocast null fp32 amp True
    [ -n "${at[trainer]-}" ] || return 0
    list trainer
    for trainer in "${items[@]}"; do trainer_line "$trainer" > /dev/null || exit; done
}

# read_settings: every setting's value in this mode.
read_settings() {
    local name
    for name in "${SETTINGS[@]}"; do
        given[$name]=null
        [ -n "${at[$name]-}" ] || continue
        given[$name]=$(mode_value "${at[$name]}") && continue
        given[$name]=null
        case $MODE-$name in
            whole_infer-epochs | whole_infer-batch | whole_infer-*data | *-train_images) ;;
            benchmark_train-eval_data | benchmark_train-images) ;;
            *) die "$config, line ${at[$name]}: found '${lines[at[$name]]}', expected a value for mode $MODE in it" ;;
        esac
    done
    # The images of inference: in the long form, training modes may have a separate line for them.
    images=${given[images]}
    [ "$MODE" = whole_infer ] || empty "${given[train_images]}" || images=${given[train_images]}
    read_data
    [ "$MODE" != benchmark_train ] || images=null
}

# read_data: what a section ===data_params=== says about the data of lite and of whole modes takes the place of the
# lines above it, which the official scripts pass in every mode as they are.
read_data() {
    local first training=whole inference=whole number
    first=$(grep -n -m 1 '^==*data_params=' "$config" | cut -d : -f 1 || true)
    [ -n "$first" ] || return 0
    for number in 1 2 3 4; do
        expect $((first + number)) "$(cut -d ' ' -f $number <<< 'lite_data lite_images whole_data whole_images')"
    done
    lite_line=$((first + 1))
    case $MODE in lite_train_*) training=lite ;; esac
    case $MODE in *_lite_infer) inference=lite ;; esac
    from_data data "$training" 1
    from_data eval_data "$inference" 1
    from_data images "$inference" 2
    images=${given[images]}
}

# from_data SETTING KIND NUMBER: take the value of SETTING from line NUMBER of the part for KIND, lite or whole.
from_data() {
    from[$1]=$((first + $3 + ($([ "$2" = lite ]; echo $?) * 2)))
    given[$1]=$(value "${from[$1]}")
    [ "$MODE" != whole_infer ] || [ "$1" = images ] || given[$1]=null
}

# line_of SETTING: the number of the line that its value is from.
line_of() { printf '%s' "${from[$1]-${at[$1]-}}"; }

# allow NAME VALUE…: every item of a setting is one of these.
allow() {
    local name=$1 item word
    shift
    list "$name"
    for item in "${items[@]}"; do
        for word in "$@"; do [ "$item" != "$word" ] || continue 2; done
        [ -z "${at[$name]-}" ] || die "$config, line ${at[$name]}: found '$item', expected $*"
    done
}

read_32() {
    [[ ${lines[33]-} = *data_params* ]] || expect_count 32
    expect 10 train_model_name
    expect 13 trainer
    expect 17 eval
    expect_title 19 infer_params
    expect 22 norm_export
    expect 24 train_model
    expect 25 infer_export
    expect 27 inference
    at=([device]=5 [epochs]=6 [output]=7 [batch]=8 [pretrained]=9 [weights]=10 [data]=11 [trainer]=13 [eval]=17
        [eval_data]=11 [save_infer]=20 [export_weights]=21 [whole_model]=24 [whole_export]=25 [inference]=27
        [use_gpu]=28 [infer_batch]=29 [model_dir]=30 [images]=31 [benchmark]=32)
    first_trainer=14
    last_trainer=14
    first_export=22
}

read_51() {
    [ "${#lines[@]}" -ge 51 ] || die "$config: found ${#lines[@]} lines, expected 51"
    [ "${#lines[@]}" -eq 51 ] || [[ ${lines[52]} = *data_params* ]] || expect_title 52 train_benchmark_params
    expect 11 train_model_name
    expect 12 train_infer_img_dir
    expect 15 trainer
    expect 16 norm_train
    expect 24 eval
    expect_title 27 infer_params
    expect 30 norm_export
    expect 37 infer_model
    expect 38 infer_export
    expect 39 infer_quant
    expect 40 inference
    at=([device]=5 [autocast]=6 [epochs]=7 [output]=8 [batch]=9 [pretrained]=10 [weights]=11 [train_images]=12
        [data]=13 [trainer]=15 [eval]=24 [eval_data]=25 [save_infer]=28 [export_weights]=29 [inference_dir]=36
        [whole_model]=37 [whole_export]=38 [quant]=39 [inference]=40 [use_gpu]=41 [mkldnn]=42 [threads]=43
        [infer_batch]=44 [trt]=45 [precision]=46 [model_dir]=47 [images]=48 [infer_extra]=49 [benchmark]=50
        [infer_last]=51)
    first_trainer=16
    last_trainer=21
    first_export=30
}

read_ptq() {
    expect_count 20
    expect 11 trainer
    expect 12 PTQ
    expect_title 14 infer_params
    expect 15 inference
    at=([quantize_gpu]=4 [export_weights]=5 [save_infer]=6 [calibration]=7 [calibration_count]=8 [calibration_batch]=9
        [quantize]=12 [inference]=15 [use_gpu]=16 [infer_batch]=17 [model_dir]=18 [images]=19 [benchmark]=20)
}

read_paddle2onnx() {
    expect_count 15
    expect 4 2onnx
    expect 11 train_model
    expect 12 inference
    at=([convert]=4 [paddle_model]=5 [paddle_graph]=6 [paddle_params]=7 [onnx_file]=8 [opset]=9 [onnx_checker]=10
        [whole_model]=11 [inference]=12 [model_dir]=13 [onnx_input]=14 [images]=15)
}

# expect_count N: the file has N lines.
expect_count() { [ "${#lines[@]}" -eq "$1" ] || die "$config: found ${#lines[@]} lines, expected $1"; }

# list NAME: the items of a setting into `items`.
list() { split "${given[$1]:-null}"; }

# flag NAME VALUE: ` key=value` with the key that the file gives the setting; nothing where the form has none.
flag() {
    local name
    [ -n "${at[$1]-}" ] || return 0
    name=$(key "${at[$1]}")
    case $name in -*) argument "$name" "$2" ;; esac
}

# trainer_line TRAINER: the number of its command's line.
trainer_line() {
    local number
    [ "$form" = 51 ] || { printf '%s' "$first_trainer"; return 0; }
    for ((number = first_trainer; number <= last_trainer; number++)); do
        [ "$(key "$number")" != "$1" ] || { printf '%s' "$number"; return 0; }
    done
    die "$config, line ${at[trainer]}: found trainer '$1', expected a key of lines $first_trainer to $last_trainer"
}

# there NUMBER PATH: the path of line NUMBER exists.
there() {
    empty "$2" || compgen -G "$2*" > /dev/null \
        || die "$config, line $1: $2 is not there; run bash test_tipc/prepare.sh $config $MODE first"
}
