# make demo: everything once, on synthetic scenes. make ccf: the original's protocol on its scenes.
# make test: the tests. make images: what README.md shows. All build .venv first.

# The newest Python that TensorFlow 2.21 has wheels for; or say PYTHON=/path/to/python.
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3.10 python3 python; do \
    $$python -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' \
    2>/dev/null && echo $$python && break; done)

READY := .venv/requirements.txt
RUN := .venv/bin/python
DEMO := dataset/demo
# Of make images: labelled scenes, the one to show, and the folder of a run that held it out.
ORIGIN ?= ../shared/data/dubai
SCENE ?= 5
TRAINED ?= logs/dubai
MAPS := predictions/images

.DEFAULT_GOAL := help
.PHONY: help demo ccf test images clean
.DELETE_ON_ERROR:

help:
	@echo "make demo   draw synthetic scenes, cut tiles, train, map the held-out scene, score it"
	@echo "make ccf    run the original's protocol on the five CCF scenes"
	@echo "make test   run all tests"
	@echo "make images draw the pictures of README.md again"
	@echo "make clean  remove .venv and what make demo made"

# The copy is made last: a .venv whose requirements are not today's is built again.
$(READY): requirements.txt
	@test -n "$(PYTHON)" || { echo "Python 3.10 to 3.13 is needed; install one, or say \
	make PYTHON=/path/to/python"; exit 2; }
	rm -rf .venv
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --disable-pip-version-check -r requirements.txt
	cp requirements.txt $@

# A narrow backbone and few steps: benchmarks/demo.txt compares.
demo: $(READY)
	rm -rf logs/demo
	$(RUN) -m utils.data.demo_scenes --out $(DEMO)/origin
	$(RUN) preprocess.py --dataset $(DEMO) --tiles 1280
	$(RUN) train.py --dataset $(DEMO) --run demo --pretrained none --width .25 --steps 300 \
	    --batch_size 8 --learning_rate 3e-3 --schedule poly --weight_decay 1e-4 \
	    --batch_norm_decay 0.95 --test_display 150 --save_every 150
	$(RUN) predict.py --dataset $(DEMO) --run demo --out predictions/demo --overwrite
	@echo
	@echo "The scene that was not trained on, its classes laid over it, alone, and the confusions:"
	@echo "    $(DEMO)/origin/5.png"
	@printf "    predictions/demo/5_%s.png\n" overlay colour confusion
	@echo "Curves of the training: .venv/bin/tensorboard --logdir logs"
	@echo "Next, your own scenes: see README.md, 'Your own scenes'."

ccf: $(READY)
	PYTHON=$(RUN) benchmarks/ccf.sh

test: $(READY)
	$(RUN) -m pytest -q --numprocesses 2 --dist loadfile --max-worker-restart 0

# The diagrams are drawn by hand and tensorboard.png is a screenshot. The pictures are left as they are
# where the scene or the run is not there.
images: IMAGE = $(filter-out %.xml,$(wildcard $(ORIGIN)/$(SCENE).*))
images: $(READY)
	@if [ -e "$(ORIGIN)/$(SCENE)_class.png" ] && [ -e $(TRAINED)/settings.json ]; then set -ex; \
	$(RUN) predict.py --logs $(dir $(TRAINED)) --run $(notdir $(TRAINED)) --origin $(ORIGIN) \
	    --test_scene $(SCENE) --out $(MAPS) --overwrite; \
	$(RUN) -m utils.inference.visualise --image $(IMAGE) --label $(ORIGIN)/$(SCENE)_class.png \
	    --prediction $(MAPS)/$(SCENE)_class.png --out images/strip.png; \
	$(RUN) -m benchmarks.seams --logs $(dir $(TRAINED)) --run $(notdir $(TRAINED)) \
	    --origin $(ORIGIN) --test_scene $(SCENE) --picture_only; \
	else echo "images/strip.png and images/seams.png are left as they are: they need the Dubai \
	scenes (ORIGIN=$(ORIGIN)) and a run trained on them (TRAINED=$(TRAINED); benchmarks/dubai.sh \
	makes it)"; fi
	@if [ -e logs/demo/settings.json ]; then set -ex; $(RUN) -m benchmarks.polygon_picture; \
	else echo "images/polygons.jpg is left as it is: it needs the run of make demo"; fi

clean:
	rm -rf .venv $(DEMO) logs/demo predictions/demo
