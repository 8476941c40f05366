"""What does the work, wherever it runs: it sees the run directory and the client's recordings, and has zk0."""

import sys

from zk0.executors.worker import work

if __name__ == "__main__":
    work(sys.argv[1])
