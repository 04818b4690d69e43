// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"time"
)

// supervise tells systemd that the agent is ready and, if the unit has a watchdog, that
// this process runs, until ctx ends. Without systemd it does nothing. What the watchdog
// catches is a process that stands still; what hangs inside is in the agent's reports.
func supervise(ctx context.Context, getenv func(string) string, log *slog.Logger) {
	socket := getenv("NOTIFY_SOCKET")
	if socket == "" {
		return
	}
	tell := func(what string) {
		if err := notify(socket, what); err != nil {
			log.Warn("supervisor not told", "what", what, "cause", err)
		}
	}
	tell("READY=1")
	defer tell("STOPPING=1")
	limit, err := strconv.ParseInt(getenv("WATCHDOG_USEC"), 10, 64)
	if err != nil || limit <= 0 {
		<-ctx.Done()
		return
	}
	tick := time.NewTicker(time.Duration(limit) * time.Microsecond / 3)
	defer tick.Stop()
	for {
		tell("WATCHDOG=1")
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// notify sends one message of sd_notify(3).
func notify(socket, what string) error {
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("reach supervisor: %w", err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	_, err = conn.Write([]byte(what))
	return err
}
