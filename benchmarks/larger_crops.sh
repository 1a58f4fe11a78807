#!/usr/bin/env bash
# What larger crops in the last tenth of a training do, and how large predict.py's windows may then
# be: Dubai scenes 3 and 5 held out, 600 steps with crops of 192, then 60 steps more with crops of
# 192, or with crops of 384 and as many pixels a step. Stopped or killed, it goes on.
set -euo pipefail
cd "$(dirname "$0")/.."
ORIGIN=${ORIGIN:-../shared/data/dubai}
WORK=${WORK:-dataset/larger_crops}
LOGS=${LOGS:-logs/larger_crops}
OUT=${OUT:-predictions/larger_crops}
PYTHON=${PYTHON:-.venv/bin/python}
SEEDS=${SEEDS:-0 1}
WINDOWS=${WINDOWS:-192 384 768}
HELD_OUT=(--origin "$ORIGIN" --test_scene 3 5)

learn() {  # learn RUN SEED FLAGS...
    "$PYTHON" train.py --dataset "$WORK" "${HELD_OUT[@]}" --logs "$LOGS" --run "$1-seed$2" \
        --seed "$2" --width .25 --augment_online --precision float32 --schedule poly \
        --weight_decay 1e-4 --ema .99 --test_display 1000 "${@:3}"
}

[ -e "$WORK/path_list.csv" ] || "$PYTHON" preprocess.py --dataset "$WORK" "${HELD_OUT[@]}" \
    --tiles 1600 --tile_size 400 --no_augment --crops_per_scene equal
for seed in $SEEDS; do
    learn first "$seed" --pretrained none --learning_rate 1e-3 --steps 600 --crop_size 192 \
        --batch_size 8
    learn crops_of_192 "$seed" --pretrained "$LOGS/first-seed$seed" --learning_rate 3e-4 \
        --steps 60 --crop_size 192 --batch_size 8
    learn crops_of_384 "$seed" --pretrained "$LOGS/first-seed$seed" --learning_rate 3e-4 \
        --steps 60 --crop_size 384 --batch_size 2
    for run in crops_of_192 crops_of_384; do
        for window in $WINDOWS; do
            echo "seed $seed, $run, windows of $window"
            "$PYTHON" predict.py --dataset "$WORK" "${HELD_OUT[@]}" --logs "$LOGS" \
                --run "$run-seed$seed" --window "$window" --overlap .25 --rotations 1 \
                --out "$OUT/$run-seed$seed-$window" | sed -n '/pooled/,$p'
        done
    done
done
