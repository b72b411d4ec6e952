import ailab

with ailab.start_run("quickstart", project="demo", config={"model_name": "svm", "learning_rate": 0.1}) as run:
    for step in range(1, 11):
        run.log({"loss": 1 / step, "accuracy": 1 - 0.5 / step}, step=step)
