"""``python -m yolopose.training``, which torchrun needs: ``torchrun -m yolopose.training ...``."""

import sys

from .command import main

if __name__ == "__main__":
    sys.exit(main())
