#!/usr/bin/env bash
# What a backbone that was trained on DeepGlobe (benchmarks/deepglobe.sh) gains on the Dubai scenes:
# each scene held out in turn, from random weights and from those, with one pass and with woven
# turns. The table's "validation mean-IoU" is that of blocks of the training scenes, as a random
# split of parts has it. Stopped or killed, it goes on with the next run.
set -eu
cd "$(dirname "$0")/.."
ORIGIN=${ORIGIN:-../shared/data/dubai}
WORK=${WORK:-dataset/dubai_without}
LOGS=${LOGS:-logs/dubai_without}
OUT=${OUT:-predictions/dubai_without}
PYTHON=${PYTHON:-.venv/bin/python}
PRETRAINED=${PRETRAINED:-logs/official.5}
SCENES=${SCENES:-1 2 3 4 5}
SEEDS=${SEEDS:-0 1 2}
STEPS=${STEPS:-300}
NETWORK=${NETWORK:---width .5 --separable}  # that of $PRETRAINED
CROP=${CROP:-128}

for scene in $SCENES; do
    [ -e "$WORK$scene/path_list.csv" ] || "$PYTHON" preprocess.py --dataset "$WORK$scene" \
        --origin "$ORIGIN" --test_scene "$scene" --tiles 2400 --crops_per_scene equal --no_augment
    # shellcheck disable=SC2086
    "$PYTHON" -m benchmarks.ablation --dataset "$WORK$scene" --origin "$ORIGIN" \
        --test_scene "$scene" --logs "$LOGS$scene" --out "$LOGS$scene.csv" --steps "$STEPS" \
        --seeds $SEEDS --common "--pretrained none --precision float32 $NETWORK --batch_size 8 \
        --crop_size $CROP --augment_online --learning_rate 1e-3 --schedule poly --weight_decay 1e-4 \
        --ema .99" --only baseline pretrained --option "pretrained=--pretrained $PRETRAINED"
    for seed in $SEEDS; do
        for start in baseline pretrained; do
            for way in "turns --quality default" "pass --overlap 0 --blend none --rotations 1"; do
                "$PYTHON" predict.py --dataset "$WORK$scene" --origin "$ORIGIN" \
                    --logs "$LOGS$scene" --run "$start-seed$seed" --test_scene "$scene" \
                    --out "$OUT/$start-seed$seed-${way%% *}" ${way#* }
            done
        done
    done
done
for way in pass turns; do
    for start in baseline pretrained; do
        for seed in $SEEDS; do
            echo "$start, seed $seed, $way, all scenes pooled"
            labels=() maps=()
            for scene in $SCENES; do
                labels+=("$ORIGIN/${scene}_class.png")
                maps+=("$OUT/$start-seed$seed-$way/${scene}_class.png")
            done
            "$PYTHON" -m utils.metrics --label "${labels[@]}" --prediction "${maps[@]}"
        done
    done
done
