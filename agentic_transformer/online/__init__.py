"""Learns online, to make data: a learner that is told the task and keeps all that it tried."""
