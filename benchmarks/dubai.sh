#!/usr/bin/env bash
# The README's figures on the Dubai scenes (../shared/data/dubai): tiles, training from random
# weights, map and scores of scene 5, the methods side by side. About two hours on 2 cores.
set -eu
cd "$(dirname "$0")/.."
ORIGIN=${ORIGIN:-../shared/data/dubai}
WORK=${WORK:-dataset/dubai}
PYTHON=${PYTHON:-.venv/bin/python}

# Every scene gets as many tiles (else scene 4 alone would have 6 of 10). The options are those of
# benchmarks/ablation.txt: crops cut anew in every epoch, and the average of the weights.
"$PYTHON" preprocess.py --dataset "$WORK" --origin "$ORIGIN" --tiles 6000 --crops_per_scene equal \
    --no_augment
"$PYTHON" train.py --dataset "$WORK" --origin "$ORIGIN" --run dubai --pretrained none \
    --precision bfloat16 --steps 4000 --batch_size 8 --learning_rate 5e-4 --schedule poly \
    --weight_decay 1e-4 --augment_online --crop_size 192 --ema 0.995 --test_display 500 \
    --save_every 250
"$PYTHON" predict.py --dataset "$WORK" --origin "$ORIGIN" --run dubai --precision bfloat16 \
    --out predictions/dubai --overwrite --quality best
"$PYTHON" predict.py --dataset "$WORK" --origin "$ORIGIN" --run dubai --precision bfloat16 \
    --out predictions/dubai --compare
