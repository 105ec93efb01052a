# SPDX-License-Identifier: Apache-2.0
"""Deployment: export with a parity check, inference engines, the predictor and its reports."""
