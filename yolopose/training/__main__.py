"""``python -m yolopose.training``, for torchrun: ``torchrun -m yolopose.training ...``."""

import sys

from .command import main

if __name__ == "__main__":
    sys.exit(main())
