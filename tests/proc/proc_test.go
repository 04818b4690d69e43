// SPDX-License-Identifier: Apache-2.0

package proc_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/sim/world"
	"github.com/holdfast-ha/holdfast/tests/proc"
)

const patience = time.Minute

type part struct{ File, Text string }

func TestMain(m *testing.M) {
	proc.Main(m, map[string]proc.Role{
		"writer": proc.As(func(ctx context.Context, p part) error {
			err := os.WriteFile(p.File, []byte(p.Text), 0o600)
			<-ctx.Done()
			return err
		}),
		"parent": proc.As(func(ctx context.Context, p part) error {
			s := world.NewSpawner()
			done := make(chan error, 1)
			go func() { done <- s.Run(ctx) }()
			_, err := proc.Start(s, "writer", "below", p, p.File+".log")
			return errors.Join(err, <-done)
		}),
	})
}

// A child plays its role with its part, is found below its parents, and ends in order.
func TestChildren(t *testing.T) {
	s := world.NewSpawner()
	proc.Background(t, s.Run)
	p := part{File: filepath.Join(t.TempDir(), "file"), Text: "its part"}
	child, err := proc.Start(s, "parent", "p1", p, p.File+".top")
	if err != nil {
		t.Fatal(err)
	}
	proc.Until(t, patience, 10*time.Millisecond, func() string {
		if text, err := os.ReadFile(p.File); err != nil || string(text) != p.Text {
			return fmt.Sprintf("the child wrote %q, %v", text, err)
		}
		return ""
	})
	below := proc.Descendants(child.PID())
	all := proc.Descendants(os.Getpid())
	if len(below) != 1 || !slices.Equal(all, []int{child.PID(), below[0]}) {
		t.Errorf("below the child: %v, below the test: %v; want one below %d, and both", below, all, child.PID())
	}
	if !proc.Running(child) {
		t.Error("a child that runs is taken for one that does not")
	}
	if err := child.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-child.Done()
	if proc.Running(child) || len(proc.Descendants(os.Getpid())) > 0 {
		t.Errorf("after the end: running %v, descendants %v", proc.Running(child), proc.Descendants(os.Getpid()))
	}
}

// A role that nobody has is refused, and which there are is said.
func TestUnknownRole(t *testing.T) {
	s := world.NewSpawner()
	proc.Background(t, s.Run)
	log := filepath.Join(t.TempDir(), "log")
	child, err := proc.Start(s, "king", "k1", part{}, log)
	if err != nil {
		t.Fatal(err)
	}
	<-child.Done()
	text, err := os.ReadFile(log)
	if err != nil || !strings.Contains(string(text), `"king", allowed are parent, writer`) {
		t.Errorf("log = %q, %v", text, err)
	}
}
