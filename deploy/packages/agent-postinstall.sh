#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
set -e
install -d -m 0750 /etc/holdfast/tls
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
	# An upgrade restarts a running agent; nothing is started that did not run.
	systemctl try-restart holdfast-agent
fi
