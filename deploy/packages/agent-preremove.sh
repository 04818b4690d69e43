#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# deb says "remove", rpm "0" when the package goes for good; upgrades leave it running.
set -e
if [ -d /run/systemd/system ] && { [ "$1" = remove ] || [ "$1" = 0 ]; }; then
	systemctl disable --now holdfast-agent
fi
