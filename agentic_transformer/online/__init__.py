"""Makes data by learning online: a learner is told the task, and all that it tries is kept."""
