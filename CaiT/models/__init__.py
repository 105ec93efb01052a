# SPDX-License-Identifier: Apache-2.0
"""Model families, one file each: its layers are in layers.py, its table of variants at the end of its own file."""
