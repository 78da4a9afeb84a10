"""What stands in for Accelerate's Accelerator in a test of one process."""

import torch


class OneProcess:
    """The main and only process; keeps what it is given to log."""

    is_main_process = True
    process_index = 0
    num_processes = 1
    device = torch.device("cpu")

    def __init__(self):
        self.rows = []

    def log(self, values, step):
        self.rows.append((step, values))
