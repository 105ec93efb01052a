# SPDX-License-Identifier: Apache-2.0
"""Model families in plain Paddle, one file each; the layers they share are in layers.py."""
