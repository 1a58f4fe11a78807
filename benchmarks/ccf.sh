#!/usr/bin/env bash
# The original's full protocol on the five CCF scenes (`make ccf`): 100,000 tiles, 50,000 steps of
# batch 16 from ImageNet weights, scene 5 mapped with four rotations. Stopped or killed, the same
# command goes on: complete tiles are not cut again, the run resumes from its latest checkpoint.
#   STEPS=20 TILES=400 WORK=/tmp/ccf LOGS=/tmp/ccf OUT=/tmp/ccf/map benchmarks/ccf.sh   (a trial)
set -eu
cd "$(dirname "$0")/.."
ORIGIN=${ORIGIN:-dataset/origin}
WORK=${WORK:-dataset/ccf}
LOGS=${LOGS:-logs}
OUT=${OUT:-predictions/ccf}
PRETRAINED=${PRETRAINED:-imagenet}   # or a file, where there is no network
PRECISION=${PRECISION:-float32}      # the original's
TILES=${TILES:-100000}
STEPS=${STEPS:-50000}
PYTHON=${PYTHON:-.venv/bin/python}

for name in 1 2 3 4 5; do
    for file in "$name.png" "${name}_class.png"; do
        [ -e "$ORIGIN/$file" ] || { echo "ccf.sh: error: $ORIGIN/$file of the CCF scenes is not" \
            "there; dataset/README.md says where to get it" >&2; exit 2; }
    done
done
mkdir -p "$WORK"
# The scripts inherit the lock, so one that outlives this script keeps it.
exec 9> "$WORK/.ccf.lock"  # not .lock, which preprocess.py takes
flock -n 9 || { echo "ccf.sh: error: $WORK: this protocol already runs there; wait for it or" \
    "end it" >&2; exit 2; }

# All that the result depends on is given, so that another default does not change the protocol.
data=(--dataset "$WORK" --origin "$ORIGIN" --classes dataset/classes.csv --test_scene 5)
run=(--logs "$LOGS" --run ccf --precision "$PRECISION")

# preprocess.py puts the list (a header and a line for each tile) in its place last.
if [ "$(wc -l 2> /dev/null < "$WORK/path_list.csv")" != $((TILES + 1)) ]; then
    "$PYTHON" preprocess.py "${data[@]}" --scenes 1 2 3 4 --seed 0 --tiles "$TILES" \
        --tile_size 256 --crops_per_scene area --rare_class_weight 0 --validation_fraction 0.1 \
        --rotate_90 0.25 --rotate_180 0.25 --rotate_270 0.25 --flip_horizontal 0.25 \
        --flip_vertical 0.25 --gamma 0.25 --gamma_range 0.67 1.5 --blur 0.25 --bilateral 0.25 \
        --gaussian_blur 0.25 --noise 0.2
fi
"$PYTHON" train.py "${data[@]}" "${run[@]}" --pretrained "$PRETRAINED" --seed 0 --steps "$STEPS" \
    --batch_size 16 --optimizer adam --learning_rate 2e-4 --schedule step --weight_decay 5e-4 \
    --loss cross_entropy --class_weights none --hard_pixels 1 --label_smoothing 0 --ema 0 \
    --backbone_lr_factor 1 --backbone resnet_v2_50 --width 1 --output_stride 16 \
    --multi_grid 1 2 4 --batch_norm_decay 0.99 --test_display 500 --save_every 500 \
    --summary_every 20
"$PYTHON" predict.py "${data[@]}" "${run[@]}" --out "$OUT" --overwrite --checkpoint best \
    --window 256 --overlap 0.5 --blend cosine --batch_size 4 --rotations 4 --scales 1
