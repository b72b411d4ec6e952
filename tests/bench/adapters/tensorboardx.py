"""TensorBoard's event files, written by tensorboardX (no torch), read by TensorBoard's own EventAccumulator."""

# ruff: noqa: RUF012  (signatures and class attributes are those of kit.Adapter)

from __future__ import annotations

from kit import Adapter


class A(Adapter):
    """One folder of event files a run; points of one call are one record a metric."""

    ENV, PACKAGE, IMPORT = "tensorboardx", "tensorboardX", "from tensorboardX import SummaryWriter"
    REQUIREMENTS = ["tensorboardX", "tensorboard"]
    SKIP = {"questions": "it has no question over runs"}

    def __init__(self, root):
        super().__init__(root)
        from tensorboardX import SummaryWriter

        self.writer = SummaryWriter
        self.params = {}

    def open_run(self, name, params):
        run = self.writer(logdir=str(self.store / name))
        self.params[id(run)] = params
        return run

    def logger(self, run):
        call = run.add_scalar

        def log(values, step):
            for key, value in values.items():
                call(key, value, step)

        return log

    def close_run(self, run, summary=None):
        params = self.params.pop(id(run))
        if summary:
            run.add_hparams(params, summary)
        run.close()

    def history(self, name, metric):
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        found = EventAccumulator(str(self.store / name), size_guidance={"scalars": 0})
        found.Reload()
        return found.Scalars(metric)

    def recovered(self, name):
        return len(self.history(name, "loss"))
