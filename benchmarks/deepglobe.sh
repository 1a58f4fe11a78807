#!/usr/bin/env bash
# DeepGlobe's tiles (../shared/data/deepglobe) from random weights: a quarter of the resolution
# first, half of it then; the split that others publish, and the split by scene. Stopped or killed,
# it goes on. STEPS_QUARTER and STEPS_HALF say how long; SPLITS, which splits; QUARTER_FLAGS and
# HALF_FLAGS are more of train.py's.
set -eu
cd "$(dirname "$0")/.."
DATA=${DATA:-../shared/data/deepglobe}
WORK=${WORK:-dataset/deepglobe}
LOGS=${LOGS:-logs}
OUT=${OUT:-predictions/deepglobe}
PYTHON=${PYTHON:-.venv/bin/python}
SPLITS=${SPLITS:-official by_scene}
WIDTH=${WIDTH:-.5}
STEPS_QUARTER=${STEPS_QUARTER:-2400}
STEPS_HALF=${STEPS_HALF:-5400}
PRECISION=${PRECISION:-auto}
RECIPE="--separable --optimizer muon --learning_rate 1e-3 --schedule poly --loss dice_cross_entropy \
    --colour_jitter 0 --scale_range .85 1.2 --weight_decay 1e-5 --ema .998"
QUARTER_FLAGS=${QUARTER_FLAGS:-$RECIPE}
HALF_FLAGS=${HALF_FLAGS:-$RECIPE}

cut() {  # cut SPLIT RESAMPLE TILE_SIZE
    [ -e "$WORK/$1$2/path_list.csv" ] || "$PYTHON" preprocess.py --dataset "$WORK/$1$2" \
        --scene_table "$WORK/$1.csv" --classes dataset/tables/deepglobe.csv --resample "$2" \
        --tile_size "$3" --tiles 4000 --no_augment --crops_per_scene equal --validation_fraction 0
}

learn() {  # learn SPLIT RESAMPLE STEPS FLAGS...
    # The curve of the test scenes is for the eye; without validation tiles the last step is kept.
    "$PYTHON" train.py --dataset "$WORK/$1$2" --classes dataset/tables/deepglobe.csv \
        --logs "$LOGS" --run "$1$2" --steps "$3" --test_display 400 --save_every 200 \
        --width "$WIDTH" --augment_online --precision "$PRECISION" \
        "${@:4}"
}

"$PYTHON" -m benchmarks.deepglobe tables --data "$DATA" --out "$WORK"
for split in $SPLITS; do
    cut "$split" .25 128
    cut "$split" .5 256
    # shellcheck disable=SC2086
    learn "$split" .25 "$STEPS_QUARTER" --pretrained none --batch_size 16 $QUARTER_FLAGS
    # shellcheck disable=SC2086
    learn "$split" .5 "$STEPS_HALF" --pretrained "$LOGS/$split.25" --batch_size 8 $HALF_FLAGS
    for run in "$split.25" "$split.5"; do
        "$PYTHON" predict.py --dataset "$WORK/$run" --logs "$LOGS" --run "$run" --out "$OUT/$run" \
            --quality best
        "$PYTHON" -m benchmarks.deepglobe score --table "$WORK/$split.csv" --maps "$OUT/$run"
    done
done
