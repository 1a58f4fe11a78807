#!/usr/bin/env bash
# The README's figures on the Dubai scenes (../shared/data/dubai): tiles, training from random
# weights, map and scores of scene 5, the methods side by side. About an hour on 2 cores.
set -eu
cd "$(dirname "$0")/.."
ORIGIN=${ORIGIN:-../shared/data/dubai}
WORK=${WORK:-dataset/dubai}
PYTHON=${PYTHON:-.venv/bin/python}

# Every scene gets as many tiles (else scene 4 alone would have 6 of 10), and more changes of
# brightness than the original's: scene 5 is another day. No bilateral filter: it costs detail.
"$PYTHON" preprocess.py --dataset "$WORK" --origin "$ORIGIN" --tiles 6000 --crops_per_scene equal \
    --gamma 0.5 --gamma_range 0.5 2 --bilateral 0 --blur 0.1 --gaussian_blur 0.1
"$PYTHON" train.py --dataset "$WORK" --origin "$ORIGIN" --run dubai --pretrained none \
    --precision bfloat16 --steps 1500 --batch_size 8 --learning_rate 5e-4 --schedule poly \
    --weight_decay 1e-4 --test_display 300 --save_every 300
"$PYTHON" predict.py --dataset "$WORK" --origin "$ORIGIN" --run dubai --precision bfloat16 \
    --out predictions/dubai
"$PYTHON" predict.py --dataset "$WORK" --origin "$ORIGIN" --run dubai --precision bfloat16 \
    --out predictions/dubai --compare
