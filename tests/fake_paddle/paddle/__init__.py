# SPDX-License-Identifier: Apache-2.0
"""What Paddle prints when it is imported, and a line of another library, for tests/test_runtime.py."""
import sys

__version__ = '3.3.1'
print('WARNING: OMP_NUM_THREADS set to 2, not 1. The computation speed', file=sys.stderr)
print('something else', file=sys.stderr)
print('PLEASE USE OMP_NUM_THREADS WISELY.', file=sys.stderr)
