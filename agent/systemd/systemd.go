// SPDX-License-Identifier: Apache-2.0

// Package systemd tells systemd how a daemon is, in the protocol of sd_notify(3): that it is
// ready, that it still runs (WatchdogSec= of its unit), that it stops. It is what the
// processes of worker and agent share, and knows neither.
//
// A watchdog is for a process that stands still: what is told must never hang on anything
// outside of it, such as etcd or a hypervisor, or an outage there would restart the fleet
// (libraries.md §7).
package systemd

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"time"
)

// Supervisor is the systemd above this process. Methods of nil do nothing: there is none.
type Supervisor struct {
	socket string
	limit  time.Duration // of the watchdog; 0: there is none
	log    *slog.Logger
}

// From reads what systemd has told this process in its environment; nil when it was not
// started by a unit of Type=notify.
func From(getenv func(string) string, log *slog.Logger) *Supervisor {
	s := &Supervisor{socket: getenv("NOTIFY_SOCKET"), log: log}
	if s.socket == "" {
		return nil
	}
	if pid := getenv("WATCHDOG_PID"); pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return s // it is another process's to answer
	}
	if us, err := strconv.ParseInt(getenv("WATCHDOG_USEC"), 10, 64); err == nil && us > 0 {
		s.limit = time.Duration(us) * time.Microsecond
	}
	return s
}

// Limit is for how long this process may be silent; 0: nobody watches.
func (s *Supervisor) Limit() time.Duration {
	if s == nil {
		return 0
	}
	return s.limit
}

// Ready says that the start is over.
func (s *Supervisor) Ready() { s.tell("READY=1") }

// Stopping says that the silence to come is an orderly end.
func (s *Supervisor) Stopping() { s.tell("STOPPING=1") }

// Watch says that the process runs, three times within the watchdog's limit, whenever alive
// says so, until ctx ends. alive must not wait for anything outside of the process; nil: as
// long as this goroutine runs.
func (s *Supervisor) Watch(ctx context.Context, alive func() bool) {
	if s.Limit() == 0 {
		return
	}
	tick := time.NewTicker(s.limit / 3)
	defer tick.Stop()
	for {
		if alive == nil || alive() {
			s.tell("WATCHDOG=1")
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (s *Supervisor) tell(what string) {
	if s == nil {
		return
	}
	if err := s.send(what); err != nil {
		s.log.Warn("supervisor not told", "what", what, "cause", err)
	}
}

// send sends one message.
func (s *Supervisor) send(what string) error {
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: s.socket, Net: "unixgram"})
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
