"""The paper's language and vision tasks, each one command: `python -m vf_tasks cola`."""
