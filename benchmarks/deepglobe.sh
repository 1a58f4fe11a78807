#!/usr/bin/env bash
# DeepGlobe's tiles (../shared/data/deepglobe) from random weights, in stages that each begin with
# the weights of the one before: a quarter of the resolution, half of it, half of it once more, all
# of it; on the split that others publish, and on the split by scene. Stopped or killed, it goes on.
# STEPS_... say how long (0: not at all); SPLITS, which splits; ..._FLAGS are more of train.py's.
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
STEPS_MORE=${STEPS_MORE:-4500}
STEPS_FULL=${STEPS_FULL:-1300}
PRECISION=${PRECISION:-auto}
RECIPE="--separable --optimizer muon --learning_rate 1e-3 --schedule poly --loss dice_cross_entropy \
    --colour_jitter 0 --scale_range .85 1.2 --weight_decay 1e-5 --ema .998"
QUARTER_FLAGS=${QUARTER_FLAGS:-$RECIPE}
HALF_FLAGS=${HALF_FLAGS:-$RECIPE}
MORE_FLAGS=${MORE_FLAGS:-$HALF_FLAGS --learning_rate 7e-4}
FULL_FLAGS=${FULL_FLAGS:-$MORE_FLAGS --ema .995}

stage() {  # stage SPLIT RUN RESAMPLE TILE_SIZE STEPS FLAGS...
    [ "$5" != 0 ] || return 0
    local tiles="$WORK/$1$3" run="$1$2"
    [ -e "$tiles/path_list.csv" ] || "$PYTHON" preprocess.py --dataset "$tiles" \
        --scene_table "$WORK/$1.csv" --classes dataset/tables/deepglobe.csv --resample "$3" \
        --tile_size "$4" --tiles 4000 --no_augment --crops_per_scene equal --validation_fraction 0
    # The curve of the test scenes is for the eye; without validation tiles the last step is kept.
    "$PYTHON" train.py --dataset "$tiles" --classes dataset/tables/deepglobe.csv --logs "$LOGS" \
        --run "$run" --steps "$5" --test_display 400 --save_every 200 --width "$WIDTH" \
        --augment_online --precision "$PRECISION" --pretrained "$weights" "${@:6}"
    weights="$LOGS/$run"
    "$PYTHON" predict.py --dataset "$tiles" --logs "$LOGS" --run "$run" --out "$OUT/$run" \
        --quality best
    "$PYTHON" -m benchmarks.deepglobe score --table "$WORK/$1.csv" --maps "$OUT/$run"
}

"$PYTHON" -m benchmarks.deepglobe tables --data "$DATA" --out "$WORK"
for split in $SPLITS; do
    weights=none
    # shellcheck disable=SC2086
    {
        stage "$split" .25 .25 128 "$STEPS_QUARTER" --batch_size 16 $QUARTER_FLAGS
        stage "$split" .5 .5 256 "$STEPS_HALF" --batch_size 8 $HALF_FLAGS
        stage "$split" .5more .5 256 "$STEPS_MORE" --batch_size 8 $MORE_FLAGS
        stage "$split" 1 1 512 "$STEPS_FULL" --batch_size 8 $FULL_FLAGS
    }
done
