// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// terminal is a pseudo-terminal: the side of the person and that of the program.
func terminal(t *testing.T) (person, program *os.File) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { person.Close() })
	if err := unix.IoctlSetPointerInt(int(person.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(person.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	return person, program
}

func echoes(t *testing.T, f *os.File) bool {
	t.Helper()
	s, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return s.Lflag&unix.ECHO != 0
}

func until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(time.Minute); !cond(); {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("not in time: %s", what)
		}
	}
}

// TestPasswordIsNotEchoed: what is typed on a terminal does not appear on it.
func TestPasswordIsNotEchoed(t *testing.T) {
	person, program := terminal(t)
	var errOut bytes.Buffer
	e := &env{Stdin: program, Stderr: &errOut, IsTTY: func(any) bool { return true }}
	type answer struct {
		b   []byte
		err error
	}
	done := make(chan answer, 1)
	go func() {
		b, err := e.password(t.Context(), "New password", false)
		done <- answer{b, err}
	}()
	until(t, "the echo is off", func() bool { return !echoes(t, program) })
	if _, err := person.WriteString("kanarie-5\n"); err != nil {
		t.Fatal(err)
	}
	if got := <-done; got.err != nil || string(got.b) != "kanarie-5" {
		t.Errorf("got %q, %v", got.b, got.err)
	}
	if !echoes(t, program) {
		t.Error("the terminal stays mute")
	}
	if _, err := program.WriteString("end"); err != nil {
		t.Fatal(err)
	}
	var shown strings.Builder
	for b := make([]byte, 256); !strings.Contains(shown.String(), "end"); {
		n, err := person.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		shown.Write(b[:n])
	}
	if strings.Contains(shown.String()+errOut.String(), "kanarie") {
		t.Errorf("shown: %q and %q", shown.String(), errOut.String())
	}
}

// TestInterruptGivesTheEchoBack: who leaves at the prompt has a terminal that echoes.
func TestInterruptGivesTheEchoBack(t *testing.T) {
	_, program := terminal(t)
	ctx, cancel := context.WithCancel(t.Context())
	e := &env{Stdin: program, Stderr: &bytes.Buffer{}, IsTTY: func(any) bool { return true }}
	done := make(chan error, 1)
	go func() {
		_, err := e.password(ctx, "New password", false)
		done <- err
	}()
	until(t, "the echo is off", func() bool { return !echoes(t, program) })
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if !echoes(t, program) {
		t.Error("the terminal stays mute")
	}
}

// TestPasswordFromAPipe: all of it but one line break at its end; nothing and too much
// are mistakes that are not repeated.
func TestPasswordFromAPipe(t *testing.T) {
	for in, want := range map[string]string{"pw": "pw", "pw\n": "pw", "pw\r\n": "pw", " p w \n\n": " p w \n", "": "", "\n": "", strings.Repeat("x", maxTyped+1): ""} {
		e := &env{Stdin: strings.NewReader(in), Stderr: &bytes.Buffer{}, IsTTY: func(any) bool { return false }}
		got, err := e.password(t.Context(), "", false)
		if string(got) != want || (err == nil) != (want != "") || err != nil && (exitCode(err) != exitUsage || strings.Contains(err.Error(), "xx")) {
			t.Errorf("%.20q: %q, %v", in, got, err)
		}
	}
}
