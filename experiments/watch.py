"""Draws a trained agent's attempts at a few hidden tasks as a moving picture.

python -m experiments.watch load=maze out=runs/attempts.gif
"""

from __future__ import annotations

from pathlib import Path

from agentic_transformer.config import EvalConfig, WatchCommand
from experiments.cli import app as cli


def main(config: WatchCommand) -> None:
    """Runs attempts, prints their returns, and draws the attempts that are asked for.

    Raises:
        ValueError: there is no such agent, its environment keeps no states to draw from, or `out`
            is no .gif or .mp4.
    """
    # Imported here: a command line is checked before jax and MuJoCo are loaded.
    import agentic_transformer
    import envs
    from agentic_transformer.evaluation.conditions import evaluation_tasks
    from agentic_transformer.evaluation.stored_rollouts import rollout_arrays
    from experiments.reports.video import why_not_drawn, write_attempts

    path = Path(config.out)
    if path.suffix not in (".gif", ".mp4"):
        raise ValueError(f"out={path} must end in .gif or .mp4")
    agent = agentic_transformer.load(config.load)
    if problem := why_not_drawn(agent.spec.task):
        raise ValueError(problem)
    asked = EvalConfig(tasks=config.tasks, seed=config.seed)
    tasks = evaluation_tasks(agent.spec.task, asked, agent.spec.seed)
    attempts = agent.play(envs.make_vec(tasks), max(config.attempts), seed=config.seed)
    for attempt in attempts:
        returns = ", ".join(f"{value:.1f}" for value in attempt.returns)
        print(f"attempt {attempt.number}: returns {returns}", flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_attempts(path, rollout_arrays(tasks, attempts), config.attempts)
    print(path, flush=True)


if __name__ == "__main__":
    cli.run(main, WatchCommand)
