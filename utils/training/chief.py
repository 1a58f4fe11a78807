"""What the chief, the first host of a run, does beside the steps: curves, checkpoints, evaluations.
"""

import os
import time

from utils.cli import progress
from utils.training.checkpoints import best_checkpoints
from utils.training.evaluation import EvaluationStopped
from utils.training.run import BestScore, is_run
from utils.training.tensorboard import (EventWriter, finished_summary, scalar_summary,
                                        settings_summary)


class Chief:
    """Records a run in its folder.

    args: train.py's flags. graph: its Graph. run: the run's folder. latest: Checkpoints of all
    variables. evaluator: an Evaluator.
    """

    def __init__(self, args, session, graph, run, settings, latest, evaluator):
        self._args, self._session, self._run = args, session, run
        self._latest, self._evaluator = latest, evaluator
        self._best_checkpoints = best_checkpoints(run, graph.ema)
        self._saved = step = int(session.run(graph.step))
        self._cut_short = False  # an evaluation was
        # What an attempt left that never came to a checkpoint may be of other settings.
        self._best = (BestScore.read(run) if step else None) or BestScore()
        self._writer = EventWriter(run, step + 1, None if step else session.graph)
        self._writer.add_summary(settings_summary(settings.to_json()), step)
        self._bar = progress(args.steps, "step", "training", initial=step)
        self._images, self._seconds, self._began = 0, 0.0, time.perf_counter()

    @property
    def kept(self):
        """What is left of the run if it stops now, for an error's line."""
        return (f"the checkpoint of step {self._saved} is kept" if self._saved
                else "nothing was saved yet")

    def catch_up(self, step, is_evaluated, asked):
        """Evaluates a run that was stopped between saving and evaluating."""
        if is_evaluated and self._best.evaluated < step:
            self.evaluate(step, asked)
        self._began = time.perf_counter()

    def log(self, step, values):
        """Progress and curves of a step. values: by name, as train.py fetched them."""
        self._seconds += time.perf_counter() - self._began
        self._images += self._args.batch_size
        self._bar.set_postfix(loss=f"{values['loss']:.3f}", refresh=False)
        self._bar.update()
        if step % self._args.summary_every == 0:
            self._writer.add_summary(scalar_summary({
                f"loss/{self._args.loss}": values["loss"],
                "loss/with_weight_decay": values["loss_with_decay"],
                "training/learning_rate": values["rate"],
                "training/images_per_second": self._images / self._seconds}), step)
            self._images, self._seconds = 0, 0.0
        if "histograms" in values:
            self._writer.add_summary(values["histograms"], step)
        self._began = time.perf_counter()

    def save(self, step):
        """Saves the latest checkpoint. Raises OSError, also where the run's folder is gone, and
        ValueError where steps since the last one saw other tiles than those before."""
        if self._cut_short:  # where hosts take one more step: its evaluation is made up from before
            return
        if not is_run(self._run):  # saving would begin it again, without its settings
            raise OSError(f"{self._run}: removed or renamed while it was training, so step {step} "
                          "could not be saved; start again, with another --run")
        self._evaluator.tile_set.check_unchanged()
        self._latest.save(self._session, step)
        self._saved = step
        self._began = time.perf_counter()

    def evaluate(self, step, asked):
        """Evaluates the model, and keeps it as the best where it is no worse than that.

        Without validation tiles the latest is the best. asked: threading.Event; once it is set, the
        step is saved, and the evaluation left for the next start.
        """
        try:
            scores = self._evaluator.evaluate(step, self._writer, asked)
        except EvaluationStopped:
            if self._saved < step:
                self.save(step)
            self._cut_short = True
            return
        best = self._best
        if (scores["mean_iou"] or 0) >= (best.mean_iou or 0):
            if self._saved < step:  # a best without a latest could not be resumed
                self.save(step)
            self._best_checkpoints.save(self._session, step)
            best.step, best.mean_iou = step, scores["mean_iou"]
            best.held_out_mean_iou = scores["held_out_mean_iou"]
            self._writer.add_summary(scalar_summary({
                f"best/{name}": value for name, value in scores.items() if value is not None}),
                step)
        best.evaluated = step
        best.write(self._run)
        self._began = time.perf_counter()

    def close(self):
        """Ends the bar, so that an error's line is the last."""
        self._bar.close()

    def finish(self, step):
        """Saves what is not saved yet, closes the event file and tells how the run ended. Returns
        whether it is done."""
        self.close()
        if self._saved < step:
            self.save(step)
        # Where the last step's evaluation was left out or cut short, the next start makes it up.
        done = step == self._args.steps and self._best.evaluated >= step
        if done:
            self._writer.add_summary(finished_summary(), step)
        self._writer.close()
        if not done:
            print(f"{self._run}: stopped and saved at step {self._saved}; the same command with "
                  f"--run {os.path.relpath(self._run, self._args.logs)} goes on from there")
        elif self._best.mean_iou is None:
            print(f"{self._run}: done")
        else:
            print(f"{self._run}: done; best mean-IoU on the validation tiles "
                  f"{self._best.mean_iou:.4f}")
        return done
