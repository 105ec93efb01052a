# SPDX-License-Identifier: Apache-2.0
"""From a checked model to answers about images: export, inference engines, and what they report."""
