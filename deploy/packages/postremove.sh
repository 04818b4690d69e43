#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Configuration, certificates and secrets were made by people and stay, even at a purge.
set -e
if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
