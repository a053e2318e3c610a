"""Tasks: functions whose calls are jobs."""

from neoq.tasks.collection import Tasks
from neoq.tasks.task import AsyncTask, JobFailed, Task, TaskJob

__all__ = ["AsyncTask", "JobFailed", "Task", "TaskJob", "Tasks"]
