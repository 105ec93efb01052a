# SPDX-License-Identifier: Apache-2.0
"""An exported model over HTTP: ``cait serve``.

A request passes ``connection`` (time and size of its head), ``guard`` (token, size and time of its body, length of the
queue), ``application`` (the routes), ``service`` (decoding in threads) and ``batching`` (the engine).
"""
