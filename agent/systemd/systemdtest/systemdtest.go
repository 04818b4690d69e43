// SPDX-License-Identifier: Apache-2.0

// Package systemdtest is a systemd for tests: it hears what a daemon tells.
package systemdtest

import (
	"net"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// patient is how long a daemon may take to tell something.
const patient = time.Minute

// Listener is the notify socket of one daemon.
type Listener struct {
	t      *testing.T
	socket string
	told   chan string
}

// Listen opens a socket that is closed when the test ends.
func Listen(t *testing.T) *Listener {
	t.Helper()
	l := &Listener{t: t, socket: filepath.Join(t.TempDir(), "notify"), told: make(chan string, 10_000)}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: l.socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { // the kernel keeps ten only
		defer close(done)
		b := make([]byte, 64)
		for {
			n, err := conn.Read(b)
			if err != nil {
				return // closed
			}
			l.told <- string(b[:n])
		}
	}()
	t.Cleanup(func() {
		conn.Close()
		<-done
	})
	return l
}

// Env is what systemd tells a daemon of a unit with this watchdog; 0: it has none.
func (l *Listener) Env(watchdog time.Duration) func(string) string {
	return func(key string) string {
		switch {
		case key == "NOTIFY_SOCKET":
			return l.socket
		case key == "WATCHDOG_USEC" && watchdog > 0:
			return strconv.FormatInt(watchdog.Microseconds(), 10)
		}
		return ""
	}
}

// Next waits for what the daemon tells next.
func (l *Listener) Next() string {
	l.t.Helper()
	select {
	case what := <-l.told:
		return what
	case <-time.After(patient):
		l.t.Fatalf("the daemon has told nothing for %v", patient)
		return ""
	}
}

// Until reads until the daemon tells this; nothing but what it may tell before comes first.
func (l *Listener) Until(want, before string) {
	l.t.Helper()
	for got := l.Next(); got != want; got = l.Next() {
		if got != before {
			l.t.Fatalf("told %q, want %q or %q", got, want, before)
		}
	}
}

// Silence reads until the daemon has told nothing for a while; nothing but what it may tell
// before comes first.
func (l *Listener) Silence(while time.Duration, before string) {
	l.t.Helper()
	for end := time.Now().Add(patient); time.Now().Before(end); {
		select {
		case what := <-l.told:
			if what != before {
				l.t.Fatalf("told %q, want %q or nothing", what, before)
			}
		case <-time.After(while):
			return
		}
	}
	l.t.Fatalf("the daemon was never silent for %v", while)
}
